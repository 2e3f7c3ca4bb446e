"""What the entries of the stream have to say to the outside, as notices. No I/O."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from gateway.core.budget import Dimension, percent
from gateway.core.notice_levels import crossed_levels, levels_of_lower_limit
from gateway.core.notices import OF_NO_TASK, Notice, NoticeKind

_PRESSURE_WORDS = 6
_ACTS: Mapping[str, NoticeKind] = {
    "task.kill": NoticeKind.KILL,
    "task.resume": NoticeKind.RESUME,
    "task.complete": NoticeKind.COMPLETE,
    "task.loop": NoticeKind.LOOP,
    "enforcement.off": NoticeKind.ENFORCEMENT,
    "enforcement.on": NoticeKind.ENFORCEMENT,
}


class _Total(NamedTuple):
    """A total that has a limit. `scope` says whose: the task's, phase's or window's `name`."""

    scope: str
    name: str
    dimension: Dimension


def pressure_notices(tenant: str, task: str, at_ms: int, text: str) -> Iterator[Notice]:
    """Yield a notice for each level that a charge crossed, of the totals in an entry's field `p`.

    Its key is scope, level and limit: a total that falls back and rises again tells nothing new, a
    raised limit does. What a call adds to an ancestor is told as the ancestor's.
    """
    for total, before, after, limit in _totals(text):
        levels = crossed_levels(int(before), int(after), int(limit))
        yield from _at_levels(tenant, task, at_ms, total, levels, int(after), int(limit))


def lowered_notices(tenant: str, task: str, at_ms: int, text: str) -> Iterator[Notice]:
    """Yield a notice for each level that a total is at since its limit was lowered."""
    for total, used, before, limit in _totals(text):
        limit_before = None if before == "-" else int(before)
        levels = levels_of_lower_limit(int(used), limit_before, int(limit))
        yield from _at_levels(tenant, task, at_ms, total, levels, int(used), int(limit))


def _totals(text: str) -> Iterator[tuple[_Total, str, str, str]]:
    words = text.split()
    for at in range(0, len(words), _PRESSURE_WORDS):
        scope, name, dimension, *numbers = words[at : at + _PRESSURE_WORDS]
        yield _Total(scope, name, Dimension(dimension)), *numbers  # type: ignore[misc]


def _at_levels(
    tenant: str,
    task: str,
    at_ms: int,
    total: _Total,
    levels: Sequence[int],
    used: int,
    limit: int,
) -> Iterator[Notice]:
    of, key, whose = _whose(task, total)
    for level in levels:
        yield Notice(
            NoticeKind(str(level)),
            f"{key}:{total.dimension.value}:{level}:{limit}",
            tenant,
            of,
            at_ms,
            {
                "percent": level,
                **whose,
                "dimension": total.dimension.value,
                "used": used,
                "limit": limit,
            },
        )


def _whose(task: str, total: _Total) -> tuple[str, str, Mapping[str, object]]:
    """Return the task that a total is of, what tells it from the task's others, and its facts.

    A window of a spend limit is of no task: it is named `policy:kind:name@window`.
    """
    if total.scope == "phase":
        return task, total.name, {"scope": "phase", "phase": total.name}
    if total.scope == "task":
        return total.name, "", {"scope": "task", "phase": None}
    policy, kind, named = total.name.split(":", 2)
    name, _, window = named.partition("@")
    facts = {"scope": kind, "phase": None, "policy": policy, "name": name, "window": window or None}
    return "", total.name, facts


def notice_of_trip(breach: Mapping[str, Any]) -> Notice:
    """Return the notice of a stop-loss that tripped, for the row that says so."""
    return Notice(
        NoticeKind.TRIP,
        str(breach["episode"]),
        breach["tenant"],
        breach["name"],
        breach["at_ms"],
        {
            "episode": breach["episode"],
            "code": breach["code"],
            "dimension": breach["dimension"],
            "used": breach["used"],
            "limit": breach["allowed"],
            "line": breach["line"],
            "percent": percent(breach["used"], breach["allowed"]),
            "phase": breach["phase"],
            "at_call_of": breach["task"],
            "call_id": breach["call_id"],
        },
    )


def notice_of_velocity(breach: Mapping[str, Any], episode: str) -> Notice:
    """Return the notice of a task that is too fast, for the row of a refusal; once an episode."""
    return Notice(
        NoticeKind.VELOCITY,
        episode,
        breach["tenant"],
        breach["task"],
        breach["at_ms"],
        {
            "code": breach["code"],
            "policy": breach["name"],
            "dimension": breach["dimension"],
            "used": breach["used"],
            "limit": breach["line"],
            "phase": breach["phase"],
            "call_id": breach["call_id"],
        },
    )


def notice_of_act(audit: Mapping[str, Any]) -> Iterator[Notice]:
    """Yield the notice of what somebody did to a task's state, or to all, if that is told."""
    kind = _ACTS.get(audit["action"])
    if kind is not None:
        yield _of_audit(kind, audit)


def notice_of_override(audit: Mapping[str, Any]) -> Notice:
    """Return the notice of an override, for the row that says so."""
    return _of_audit(NoticeKind.OVERRIDE, audit)


def _of_audit(kind: NoticeKind, audit: Mapping[str, Any]) -> Notice:
    return Notice(
        kind,
        str(audit["number"]),
        audit["tenant"],
        "" if kind in OF_NO_TASK else audit["subject"],
        audit["at_ms"],
        {
            "action": audit["action"],
            "actor": audit["actor"],
            "reason": audit["reason"],
            "details": msgspec.json.decode(audit["details"]),
        },
    )
