"""Read typed values from YAML nodes, exactly: no value is converted that was not written as one."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeVar

from gateway.core.phases import Complexity, ImportanceTier, WorkPhase, allowed_terms, parse_term
from gateway.findings import Findings, suggestion
from gateway.yaml_source import Entry, Kind, MappingNode, Node, Scalar, shape_of

# With at most 20 digits a factor every product of the calculation stays small, and exact.
_MAX_DECIMAL_DIGITS = 20

Term = TypeVar("Term", WorkPhase, Complexity, ImportanceTier)
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Range:
    """The bounds of a number. `most` is part of the range, `least` only if `least_too`."""

    least: int
    most: int
    least_too: bool = False

    def __contains__(self, number: Decimal | int) -> bool:
        """Return whether `number` is in the range."""
        return self.least < number <= self.most or (self.least_too and number == self.least)

    def __str__(self) -> str:
        """Return the range for an error message."""
        least = f"at least {self.least}" if self.least_too else f"above {self.least}"
        return f"{least} and at most {self.most:,}"


@dataclass(frozen=True, slots=True)
class Field:
    """A value in a file, with its full key."""

    key: str
    node: Node
    line: int


def sections(
    field: Field, required: Iterable[str], optional: Iterable[str], findings: Findings
) -> dict[str, Field]:
    """Return the fields of a mapping by key; unknown and missing keys are faults."""
    needed, known = list(required), [*required, *optional]
    found: dict[str, Field] = {}
    for entry in _entries(field, findings):
        inner = _inner(field, entry)
        if entry.key in known:
            found[entry.key] = inner
        else:
            findings.error(inner.key, entry.line, "unknown key", suggestion(entry.key, known))
    if isinstance(field.node, MappingNode):
        for key in needed:
            if key not in found:
                findings.error(field.key, field.line, f"Missing required key: {key}", "add it")
    return found


def by_term(
    field: Field,
    vocabulary: type[Term],
    noun: str,
    read: Callable[[Field], Value | None],
    findings: Findings,
) -> dict[Term, Value]:
    """Return a mapping's values by phase or tier: each word once, in any case, none missing.

    `noun` ends in what the words are, `base budget for phase`, and stands in the messages.
    """
    values: dict[Term, Value] = {}
    lines: dict[Term, int] = {}
    kind = noun.rpartition(" ")[2]
    for entry in _entries(field, findings):
        inner, term = _inner(field, entry), parse_term(vocabulary, entry.key)
        if term is None:
            words = [str(member.value) for member in vocabulary]
            findings.error(inner.key, entry.line, f"unknown {kind}", suggestion(entry.key, words))
            continue
        if term in lines:
            findings.error(
                inner.key, entry.line, f"is given twice, first in line {lines[term]}", "remove one"
            )
            continue
        lines[term] = entry.line
        value = read(inner)
        if value is not None:
            values[term] = value
    if isinstance(field.node, MappingNode):
        for term in vocabulary:
            if term not in lines:
                findings.error(
                    field.key,
                    field.line,
                    f"Missing {noun}: {term.value}",
                    f"add it; every {kind} is needed: {allowed_terms(vocabulary)}",
                )
    return {term: values[term] for term in vocabulary if term in values}


def _entries(field: Field, findings: Findings) -> tuple[Entry, ...]:
    if isinstance(field.node, MappingNode):
        return field.node.entries
    _wrong_kind(field, "a mapping of keys", "write `key: value` lines below it", findings)
    return ()


def _inner(field: Field, entry: Entry) -> Field:
    return Field(f"{field.key}.{entry.key}" if field.key else entry.key, entry.value, entry.line)


def _wrong_kind(field: Field, wanted: str, remedy: str, findings: Findings) -> None:
    findings.error(field.key, field.line, f"must be {wanted}, not {shape_of(field.node)}", remedy)


def read_integer(field: Field, limits: Range, findings: Findings) -> int | None:
    """Return a whole number, or None with the reason among the findings."""
    node = field.node
    if not isinstance(node, Scalar) or node.kind is not Kind.INTEGER:
        _wrong_kind(field, "a whole number", "write digits only, without quotes", findings)
        return None
    number = int(node.text)
    if number not in limits:
        findings.error(
            field.key, field.line, f"must be {limits}, not {number:,}", "choose such a number"
        )
        return None
    return number


def read_decimal(field: Field, limits: Range, findings: Findings) -> Decimal | None:
    """Return a number exactly as it is written, or None with the reason among the findings."""
    node = field.node
    if not isinstance(node, Scalar) or node.kind not in (Kind.INTEGER, Kind.NUMBER):
        _wrong_kind(field, "a number", "write digits, without quotes", findings)
        return None
    text = node.text.replace("_", "")
    finite = not text.lower().endswith(("inf", "nan"))
    number = Decimal(text) if finite else Decimal("NaN")
    if not finite or number not in limits:
        findings.error(
            field.key, field.line, f"must be {limits}, not {node.text}", "choose such a number"
        )
        return None
    _, digits, exponent = number.as_tuple()
    if len(digits) > _MAX_DECIMAL_DIGITS or abs(int(exponent)) > _MAX_DECIMAL_DIGITS:
        findings.error(
            field.key, field.line, f"has more than {_MAX_DECIMAL_DIGITS} digits", "shorten it"
        )
        return None
    return number


def read_switch(field: Field, findings: Findings) -> bool | None:
    """Return a boolean. YAML 1.1's words count: an operator in a hurry writes `off` or `no`."""
    node = field.node
    if isinstance(node, Scalar) and not node.quoted:
        switch = _SWITCH.get(node.text.lower())
        if switch is not None:
            return switch
    _wrong_kind(field, "true or false", "write true or false", findings)
    return None


_SWITCH: Mapping[str, bool] = {
    "true": True,
    "yes": True,
    "on": True,
    "false": False,
    "no": False,
    "off": False,
}


def read_word(field: Field, words: Iterable[str], findings: Findings) -> str | None:
    """Return one of `words`, in any letter case."""
    node, known = field.node, list(words)
    if isinstance(node, Scalar) and node.text.lower() in known:
        return node.text.lower()
    _wrong_kind(field, f"one of {', '.join(known)}", "choose one of these words", findings)
    return None
