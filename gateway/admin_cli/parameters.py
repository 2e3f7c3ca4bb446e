"""Options and arguments of commands: people's units become those of the API."""

import getpass
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Any

import click

from gateway.core.keys import TAG_NAMES
from gateway.core.phases import Complexity, ImportanceTier, Term, WorkPhase

_HOUR_S = 3_600
_SECOND_MS = 1_000
_MOST_PLACES = 30  # before or behind the point; the API takes fewer


def login() -> str:
    """Return who works here, as far as the system knows."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "tollgate"


class _Decimal(click.ParamType[str]):
    """A number, taken as it is written: it is sent as text, so that nothing is rounded."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            number = Decimal(value)
        except InvalidOperation:
            number = Decimal("NaN")
        if not number.is_finite() or number < 0 or abs(number.adjusted()) > _MOST_PLACES:
            self.fail(f"{value!r} is not a number of 0 or more, such as 1.5", param, ctx)
        return format(number, "f")


class _Hours(click.FloatRange):
    """Hours, in whole seconds."""

    name = "hours"

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        hours = super().convert(value, param, ctx)
        try:
            return max(1, round(hours * _HOUR_S))
        except (OverflowError, ValueError):
            self.fail(f"{value!r} is not a number of hours, such as 1.5", param, ctx)


class _Seconds(click.IntRange):
    """Seconds, in milliseconds."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return int(super().convert(value, param, ctx)) * _SECOND_MS


class _Pair(click.ParamType[tuple[str, Any]]):
    """A name and its value, such as PLAN=9000."""

    name = "name=value"

    def __init__(self, names: click.Choice[str], value_type: click.ParamType[Any]) -> None:
        self._names = names
        self._value_type = value_type

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        name, equals, text = value.partition("=")
        if not (name and equals):
            self.fail(f"{value!r} is not of the form name=value", param, ctx)
        known = self._names.convert(name, param, ctx)
        return known, self._value_type.convert(text, param, ctx)


def one_of(vocabulary: Iterable[Term]) -> click.Choice[str]:
    """Return the type of a vocabulary's words, in any letter case."""
    return click.Choice([str(term.value) for term in vocabulary], case_sensitive=False)


def argument(name: str, kind: Any = None) -> click.Argument:
    """Return a required argument. `kind` is a type of click."""
    return click.Argument([name], type=kind)


def option(
    flag: str, name: str = "", kind: Any = None, told: str = "", **more: Any
) -> click.Option:
    """Return an option; `name` is the API's, if the flag has another. `told` is its help."""
    return click.Option([flag, *([name] if name else [])], type=kind, help=told, **more)


def once_each(
    context: click.Context, parameter: click.Parameter, pairs: Iterable[tuple[str, Any]]
) -> dict[str, Any]:
    """Return values by their names. A name that stands twice is a slip: which was meant?"""
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise click.BadParameter(f"{name} is given twice", context, parameter)
        values[name] = value
    return values


def _pairs(flag: str, name: str, kind: _Pair, told: str) -> click.Option:
    return option(flag, name, kind, told, multiple=True, callback=once_each)


def _listed(flag: str, name: str, told: str, empty: str = "", kind: Any = None) -> click.Option:
    """Return a repeatable option; the word `empty` stands for a list without members."""

    def together(_: click.Context, __: click.Parameter, words: Any) -> list[str] | None:
        return [word for word in words if word != empty] if words else None

    return option(flag, name, kind, told, multiple=True, callback=together)


def by(name: str = "by", flag: str = "--by") -> click.Option:
    """Return the option that says who does it."""
    told = "Who answers for it [default: your login]."
    return option(flag, name, told=told, default=login)


def _lasting(told: str) -> click.Option:
    return option("--hours", "expires_in_s", _Hours(), told)


PHASE = one_of(WorkPhase)
COMPLEXITY = one_of(Complexity)
IMPORTANCE = one_of(ImportanceTier)
_TAG = _Pair(click.Choice(("task", "phase", "complexity", "importance")), click.STRING)
ID = argument("id")
HOURS = _lasting("For so long [default: for good].")
BINDING_HOURS = _lasting("For so long [default: a day].")
BECAUSE = (
    by("approver", "--approver"),
    option("--reason", told="Why; kept in the audit.", required=True),
)
BY = (by(), option("--reason", told="Why, for the audit."))
AMOUNTS = (
    option("--tokens", kind=click.IntRange(1), told="Of tokens."),
    option("--usd", "cost_usd", _Decimal(), "Of cost."),
    option("--seconds", "latency_ms", _Seconds(1), "Of latency."),
)
CHARGE = (
    option("--tokens", kind=click.IntRange(0), told="Budget tokens that it shall have cost."),
    option("--usd", "cost_usd", _Decimal(), "Money that it shall have cost."),
)
FACTOR = argument("factor", _Decimal())
REGISTRATION = (
    ID,
    option("--complexity", kind=COMPLEXITY, told="[default: by size, else Medium]"),
    option("--files", kind=click.IntRange(0), told="How many files are changed."),
    option("--changed-lines", kind=click.IntRange(0), told="How many lines are changed."),
    option("--importance", kind=IMPORTANCE, told="[default: medium]"),
    option("--justification", told="Why it is critical."),
    option("--parent", told="A task that pays for this one, too."),
    _pairs(
        "--phase-tokens",
        "budget_overrides__tokens",
        _Pair(PHASE, click.IntRange(1)),
        "A phase's limit, such as PLAN=9000, repeatable.",
    ),
    _pairs(
        "--phase-seconds",
        "budget_overrides__latency_ms",
        _Pair(PHASE, _Seconds(1)),
        "A phase's limit of latency, such as PLAN=60, repeatable.",
    ),
    _pairs(
        "--phase-usd",
        "budget_overrides__cost_usd",
        _Pair(PHASE, _Decimal()),
        "A phase's limit of cost, such as PLAN=0.5, repeatable.",
    ),
    option("--multiplier", "budget_multiplier", _Decimal(), "A factor for computed limits."),
    by("registered_by"),
)
KEY = (
    argument("name"),
    option("--team", told="Whose budget it counts for."),
    _listed("--upstream", "upstreams", "Allow this upstream alone, repeatable."),
    _listed("--model", "models", "Allow models like gpt-*, repeatable."),
    _listed(
        "--may-set",
        "may_set",
        "Let its calls set this tag alone, repeatable [default: all tags].",
        "none",
        click.Choice([*TAG_NAMES, "none"]),
    ),
    _pairs("--pin", "pins", _TAG, "Bind its calls: task=T-1."),
    _pairs("--default", "defaults", _TAG, "For calls without one: phase=PLAN."),
    option("--critical", "may_claim_critical", told="Let its calls claim critical.", is_flag=True),
    option("--refusal-status", kind=click.IntRange(400, 499), told="Status of its refusals."),
    option("--tasks-per-hour", kind=click.IntRange(1), told="New tasks within an hour, at most."),
    option("--open-tasks", kind=click.IntRange(1), told="Open tasks at a time, at most."),
    option("--days", kind=click.IntRange(1, 3650), told="Valid that long [default: for good]."),
    *BY,
)
