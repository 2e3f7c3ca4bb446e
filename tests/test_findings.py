"""Findings: what is wrong, where, and the way out."""

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from gateway.core.errors import InvalidConfigError
from gateway.findings import (
    Finding,
    Findings,
    Severity,
    as_error,
    errors_among,
    explain,
    raise_errors,
    suggestion,
)


def test_a_finding_reads_as_file_line_key_problem_and_remedy() -> None:
    finding = Finding(Severity.ERROR, "c.yaml", "server.port", 3, "is odd", "make it even")
    assert str(finding) == "c.yaml:3: server.port: is odd. Remedy: make it even."


def test_what_is_not_known_is_left_out() -> None:
    assert str(Finding(Severity.ERROR, "c.yaml", "", None, "p", "r")) == "c.yaml: p. Remedy: r."


def test_only_errors_make_a_file_unusable() -> None:
    findings = Findings("c.yaml")
    findings.warning("a", 1, "doubtful", "look")
    assert not findings.has_errors
    raise_errors(findings.items)
    findings.error("b", 2, "wrong", "mend")
    findings.error("c", 3, "wrong too", "mend")
    assert findings.has_errors
    assert [finding.key for finding in errors_among(findings.items)] == ["b", "c"]
    with pytest.raises(InvalidConfigError) as raised:
        raise_errors(findings.items)
    assert raised.value.faults == as_error(findings.items).faults
    assert raised.value.faults == [
        "c.yaml:2: b: wrong. Remedy: mend.",
        "c.yaml:3: c: wrong too. Remedy: mend.",
    ]


def test_a_near_word_is_suggested() -> None:
    assert suggestion("Veryfy", ["VERIFY", "PR"]) == "did you mean 'VERIFY'? known here: VERIFY, PR"
    assert suggestion("x", ["VERIFY"]) == "known here: VERIFY"
    assert suggestion("x", []) == "known here: nothing"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    number: int = 0
    token: str = ""
    needed: str


def explained(**values: object) -> dict[str, tuple[str, str]]:
    with pytest.raises(ValidationError) as raised:
        _Model.model_validate(values)
    known = list(_Model.model_fields)
    return {str(e["loc"][-1]): explain(e, known) for e in raised.value.errors()}


def test_pydantic_s_errors_become_problem_and_remedy() -> None:
    assert explained(number="8080", nummber=1) == {
        "number": (
            "must be a valid integer, not '8080'",
            "write a whole number, without quotes",
        ),
        "needed": ("a value is required", "add it"),
        "nummber": (
            "unknown key",
            "did you mean 'number'? known here: number, token, needed",
        ),
    }


def test_secrets_are_not_repeated() -> None:
    problem, _ = explained(token=12345678, needed="x")["token"]
    assert "12345678" not in problem


def test_long_and_nested_values_are_shortened() -> None:
    assert explained(number="x" * 200, needed="x")["number"][0].endswith("xxx...")
    assert explained(number={"a": 1}, needed="x")["number"][0].endswith("not a mapping")


def test_an_error_on_the_whole_has_no_key() -> None:
    with pytest.raises(ValidationError) as raised:
        _Model.model_validate("text")
    problem, _ = explain(raised.value.errors()[0], [])
    assert "not 'text'" in problem
