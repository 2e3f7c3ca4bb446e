"""What is wrong with a configuration, said so that a person can mend it.

A finding names the file, the line, the key, what is wrong and the way out. Readers collect all of
them, so that one run of `tollgate check` shows every fault and not just the first.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pydantic_core import ErrorDetails, PydanticCustomError

from gateway.core.errors import InvalidConfigError


class Severity(Enum):
    """Whether a file with this finding can be used."""

    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault or doubt. `file` may also be `environment` or `command line`."""

    severity: Severity
    file: str
    key: str
    line: int | None
    problem: str
    remedy: str

    def __str__(self) -> str:
        """Return `file:line: key: problem. Remedy: remedy.`, leaving out what is not known."""
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        key = f"{self.key}: " if self.key else ""
        return f"{place}: {key}{self.problem}. Remedy: {self.remedy}."


@dataclass(slots=True)
class Findings:
    """Collects the findings on one file."""

    file: str
    items: list[Finding] = field(default_factory=list)

    def error(self, key: str, line: int | None, problem: str, remedy: str) -> None:
        """Take note of a fault: the file cannot be used."""
        self.items.append(Finding(Severity.ERROR, self.file, key, line, problem, remedy))

    def warning(self, key: str, line: int | None, problem: str, remedy: str) -> None:
        """Take note of a doubt: the file can be used."""
        self.items.append(Finding(Severity.WARNING, self.file, key, line, problem, remedy))

    @property
    def has_errors(self) -> bool:
        """Return whether any fault was found."""
        return bool(errors_among(self.items))


def errors_among(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that are faults."""
    return [finding for finding in findings if finding.severity is Severity.ERROR]


def raise_errors(findings: Iterable[Finding]) -> None:
    """Raise InvalidConfigError with every fault among `findings`, if there is one."""
    errors = errors_among(findings)
    if errors:
        raise as_error(errors)


def as_error(findings: Iterable[Finding]) -> InvalidConfigError:
    """Return the error that says what is wrong, in the order of the files and their lines."""
    errors = sorted(errors_among(findings), key=lambda found: (found.file, found.line or 0))
    return InvalidConfigError([str(finding) for finding in errors])


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return the remedy for an unknown word: the nearest known one, and all that are known."""
    words = list(known)
    near = difflib.get_close_matches(word.casefold(), [w.casefold() for w in words], n=1)
    hint = next((f"did you mean {w!r}? " for w in words if [w.casefold()] == near), "")
    return f"{hint}known here: {', '.join(words) or 'nothing'}"


def rule(problem: str, remedy: str) -> PydanticCustomError:
    """Return an error for a pydantic validator to raise, with its own remedy."""
    return PydanticCustomError("rule", "{problem}", {"problem": problem, "remedy": remedy})


_REMEDIES: Mapping[str, str] = {
    "missing": "add it",
    "int_type": "write a whole number, without quotes",
    "int_parsing": "write a whole number",
    "int_from_float": "write a whole number",
    "bool_type": "write true or false",
    "bool_parsing": "write true or false",
    "string_type": "put the value in quotes",
    "model_type": "write `key: value` lines",
    "dict_type": "write `key: value` lines",
    "greater_than": "choose a value in this range",
    "greater_than_equal": "choose a value in this range",
    "less_than": "choose a value in this range",
    "less_than_equal": "choose a value in this range",
    "literal_error": "choose one of these words",
}
_MESSAGES: Mapping[str, str] = {
    "model_type": "must be a mapping of keys",
    "dict_type": "must be a mapping of keys",
}
_SHOWN_CHARACTERS = 60
_SECRET_KEYS = frozenset({"token", "url", "api_key"})


def explain(error: ErrorDetails, known_keys: Sequence[str]) -> tuple[str, str]:
    """Return (problem, remedy) for an error that pydantic found; secrets are not repeated."""
    kind, key = error["type"], str(error["loc"][-1]) if error["loc"] else ""
    if kind == "extra_forbidden":
        return "unknown key", suggestion(key, known_keys)
    if kind == "missing":
        return "a value is required", _REMEDIES[kind]
    if kind == "rule":
        context: dict[str, Any] = error.get("ctx", {})
        return str(context["problem"]), str(context["remedy"])
    message = _MESSAGES.get(kind, error["msg"].replace("Input should be", "must be", 1))
    shown = "" if key in _SECRET_KEYS else f", not {_show(error['input'])}"
    return f"{message}{shown}", _REMEDIES.get(kind, "correct the value")


def _show(value: object) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."
