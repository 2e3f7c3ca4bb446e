"""The roadmap file: tasks with their tiers and own limits, before their first call.

It is other people's file: a list of tasks, each with an `id`, or a mapping by id; the whole file or
below the key `tasks`. Only the keys below are read, the rest is left to its owners. A task whose
own budget is malformed is blocked, not the file (EC17).
"""

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import yaml

from gateway.core.budget import NANO_USD_PER_USD, Amounts, TaskBudgetOverrides, TaskProfile
from gateway.core.identity import ID_PATTERN
from gateway.core.phases import (
    Complexity,
    ImportanceTier,
    Term,
    WorkPhase,
    allowed_terms,
    parse_term,
)
from gateway.core.registration import scope_class
from gateway.core.roadmap import Roadmap, RoadmapTask
from gateway.findings import Finding, Findings

_TASKS = "tasks"
_MOST_BYTES = 16 * 1024 * 1024
_MOST_UNITS = 10**12
_MOST_FACTOR = 10
_MOST_USD = 100_000
_MOST_DIGITS = 20
_LIMITS = ("tokens", "latency_ms", "cost_usd")
Value = TypeVar("Value")


class _Wrong(Exception):
    """A value that cannot be used: key, what is wrong, what to write."""

    def __init__(self, key: str, problem: str, remedy: str) -> None:
        super().__init__(f"{key}: {problem}. Remedy: {remedy}.")
        self.key, self.problem, self.remedy = key, problem, remedy


def read_roadmap(path: Path | None) -> tuple[Roadmap | None, list[Finding]]:
    """Return the file's tasks, None if it cannot be read, and all findings; none without a path."""
    if path is None:
        return {}, []
    findings = Findings(str(path))
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise _Wrong("", f"is larger than {_MOST_BYTES:,} bytes", "archive old tasks")
        document = yaml.safe_load(path.read_bytes())
        tasks = dict(_read(name, task, findings) for name, task in _named(document, findings))
    except FileNotFoundError:
        findings.warning("", None, "does not exist, no task is known from it", "create it")
        return {}, findings.items
    except (OSError, UnicodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        place = None if line is None else line + 1
        findings.error("", place, f"cannot be read: {type(error).__name__}", "correct it")
        return None, findings.items
    except _Wrong as error:
        findings.error(error.key, None, error.problem, error.remedy)
        return None, findings.items
    return tasks, findings.items


def _named(document: Any, findings: Findings) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield tasks by id; what has no usable id is left out with a warning."""
    found = document.get(_TASKS) if isinstance(document, dict) else document
    if found is None:
        return
    if not isinstance(found, dict | list):
        raise _Wrong(_TASKS, "is no list of tasks", "write `tasks:`, and `- id: ...` below")
    items = found.items() if isinstance(found, dict) else enumerate(found)
    seen: set[str] = set()
    for key, task in items:
        name = (
            key if isinstance(found, dict) else task.get("id") if isinstance(task, dict) else None
        )
        name = str(name) if isinstance(name, int) and not isinstance(name, bool) else name
        if not isinstance(name, str) or not ID_PATTERN.fullmatch(name) or name in seen:
            problem = "has no id that can be a task's, or one that is there already"
            findings.warning(f"{_TASKS}[{key}]", None, problem, "give it one")
            continue
        seen.add(name)
        yield name, task if isinstance(task, dict) else {}


def _read(name: str, task: Mapping[str, Any], findings: Findings) -> tuple[str, RoadmapTask]:
    """Return a task; a tier that is no word for one is a warning, a wrong budget blocks."""

    def lenient(read: Callable[[], Value], otherwise: Value) -> Value:
        try:
            return read()
        except _Wrong as error:
            findings.warning(f"{name}.{error.key}", None, error.problem, error.remedy)
            return otherwise

    complexity = lenient(lambda: _tier(task, "complexity", Complexity), None)
    if complexity is None:
        complexity = lenient(lambda: _by_size(task), None)
    importance = lenient(lambda: _tier(task, "importance", ImportanceTier), None)
    if importance is ImportanceTier.CRITICAL and not task.get("justification"):  # PM6
        problem = "importance critical counts as high without a justification"
        findings.warning(f"{name}.justification", None, problem, "say why")
        importance = ImportanceTier.HIGH
    parent = lenient(lambda: _parent(task), None)
    overrides, problem = TaskBudgetOverrides(), ""
    try:
        overrides = TaskBudgetOverrides(_phases(task), _factor(task))
    except _Wrong as error:
        problem = f"task {name}, {error}"
        findings.warning(f"{name}.{error.key}", None, f"{error.problem}; blocked", error.remedy)
    profile = TaskProfile(
        complexity or Complexity.MEDIUM, importance or ImportanceTier.MEDIUM, overrides
    )
    return name, RoadmapTask(profile, parent, problem)


def _tier(task: Mapping[str, Any], key: str, vocabulary: type[Term]) -> Term | None:
    text = task.get(key)
    if text is None:
        return None
    term = parse_term(vocabulary, text) if isinstance(text, str) else None
    if term is None:
        raise _Wrong(key, f"{text!r} is not known", f"choose one of {allowed_terms(vocabulary)}")
    return term


def _by_size(task: Mapping[str, Any]) -> Complexity | None:
    """Return the complexity by the size of the change, if that is given (CFG-10)."""
    counts = {key: task.get(key) for key in ("files", "changed_lines")}
    if all(count is None for count in counts.values()):
        return None
    for key, count in counts.items():
        if count is not None and (not _is_integer(count) or count < 0):
            raise _Wrong(key, f"{count!r} is no count", "write a whole number")
    return scope_class(counts["files"] or 0, counts["changed_lines"] or 0)


def _parent(task: Mapping[str, Any]) -> str | None:
    parent = task.get("parent")
    if parent is not None and not (isinstance(parent, str) and ID_PATTERN.fullmatch(parent)):
        raise _Wrong("parent", f"{parent!r} cannot be a task's id", "name a task")
    return parent


# Its own budget -----------------------------------------------------------------------------------


def _phases(task: Mapping[str, Any]) -> dict[WorkPhase, Amounts]:
    written = task.get("budget_overrides")
    if written is None:
        return {}
    if not isinstance(written, dict):
        raise _Wrong("budget_overrides", "is no mapping", "write phases with their limits below")
    found: dict[WorkPhase, Amounts] = {}
    for name, limits in written.items():
        key = f"budget_overrides.{name}"
        phase = parse_term(WorkPhase, name) if isinstance(name, str) else None
        if phase is None or phase in found:
            raise _Wrong(key, "is no phase, or is there twice", allowed_terms(WorkPhase))
        if not isinstance(limits, dict) or not limits or set(limits) - set(_LIMITS):
            raise _Wrong(key, "has no limits", f"give {', '.join(_LIMITS)}")
        found[phase] = _amounts(key, limits)
    return found


def _amounts(key: str, limits: Mapping[str, Any]) -> Amounts:
    for name in ("tokens", "latency_ms"):
        amount = limits.get(name)
        if name in limits and not (isinstance(amount, int) and _is_units(amount)):
            raise _Wrong(f"{key}.{name}", f"{amount!r} is no limit", "write a whole number above 0")
    nano_usd = None
    if "cost_usd" in limits:
        cost = _decimal(f"{key}.cost_usd", limits["cost_usd"], _MOST_USD)
        nano_usd = int(cost * NANO_USD_PER_USD)
    return Amounts(limits.get("tokens"), limits.get("latency_ms"), nano_usd)


def _factor(task: Mapping[str, Any]) -> Decimal:
    factor = task.get("budget_multiplier")
    return Decimal(1) if factor is None else _decimal("budget_multiplier", factor, _MOST_FACTOR)


def _decimal(key: str, value: Any, most: int) -> Decimal:
    """Return a number as it is written: a float's shortest text is what stood in the file."""
    number = Decimal(str(value)) if _is_integer(value) or isinstance(value, float) else Decimal(-1)
    digits = len(number.as_tuple().digits)
    if not number.is_finite() or not 0 < number <= most or digits > _MOST_DIGITS:
        raise _Wrong(key, f"{value!r} is no such number", f"write one above 0 and at most {most:,}")
    return number


def _is_units(value: int) -> bool:
    return _is_integer(value) and 0 < value <= _MOST_UNITS


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
