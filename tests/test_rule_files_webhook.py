"""A policy of kind `webhook` from its file."""

from pathlib import Path

import pytest

from gateway.core.match import CallMatch
from gateway.core.notices import NoticeKind
from gateway.core.policy import Mode
from gateway.rule_files.policies import default_policies, read_policies

LEAST = "kind: webhook\nname: ops\nurl: https://hooks.test/x?y=1\nsecret_env: HOOK_SECRET\n"


def test_without_a_file_there_is_none() -> None:
    assert default_policies().webhook == ()


def test_what_may_be_left_out(tmp_path: Path) -> None:
    """It posts everything, whatever the stop-loss' mode."""
    (tmp_path / "a.yaml").write_text(LEAST)
    policies, _ = read_policies(tmp_path)
    assert policies is not None
    (hook,) = policies.webhook
    assert (hook.mode, hook.events, hook.attempts) == (Mode.ENFORCE, frozenset(), 10)
    off, _ = read_policies(tmp_path, Mode.OFF)
    assert off is not None
    assert off.webhook[0].mode is Mode.OFF


def test_several_are_all_reached(tmp_path: Path) -> None:
    """Every one that matches is told, so none stands in another's way."""
    (tmp_path / "a.yaml").write_text(LEAST)
    second = LEAST.replace("ops", "second") + "events: [80, '100', Trip]\nmatch: {task: ['T-*']}\n"
    (tmp_path / "b.yaml").write_text(second)
    policies, findings = read_policies(tmp_path)
    assert policies is not None
    assert policies.webhook[1].events == {
        NoticeKind.PRESSURE_80,
        NoticeKind.PRESSURE_100,
        NoticeKind.TRIP,
    }
    assert policies.webhook[1].match.calls == (CallMatch(task=frozenset({"T-*"})),)
    assert not any("never reached" in str(finding) for finding in findings)


@pytest.mark.parametrize(
    ("line", "key", "problem"),
    [
        ("url: ftp://hooks.test", "url", "is not an http(s) address"),
        ("url: https://", "url", "is not an http(s) address"),
        ("url: 'https://[hooks'", "url", "is not an http(s) address"),
        ("url: https://ann:secret@hooks.test", "url", "holds credentials"),
        ("events: trip", "events", "must be a list"),
        ("events: [85]", "events", "85 is not told"),
        ("events: [tripp]", "events", "did you mean 'trip'?"),
        ("secret_env: 'no name'", "secret_env", "is no name of a variable"),
        ("secret_env: ''", "", "needs one secret to sign with"),
        ("secret_file: /x", "", "needs one secret to sign with"),
        ("match: {model: ['gpt-*']}", "", "is not known to notices"),
        ("timeout_ms: 5", "timeout_ms", "must be greater than or equal to 100"),
        ("attempts: 0", "attempts", "must be greater than or equal to 1"),
    ],
)
def test_a_fault_names_its_key_and_the_remedy(
    tmp_path: Path, line: str, key: str, problem: str
) -> None:
    name = line.partition(":")[0]
    kept = [one for one in LEAST.splitlines() if one.partition(":")[0] != name]
    (tmp_path / "a.yaml").write_text("\n".join([*kept, line, ""]))
    policies, findings = read_policies(tmp_path)
    assert policies is None
    (finding,) = findings
    assert finding.key == key
    assert problem in f"{finding.problem} {finding.remedy}"
    assert "secret@" not in str(finding)
