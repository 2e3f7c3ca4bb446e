"""What a task was, as far as the ledger knows: its snapshot, overrides, trip, place in the work."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, and_, func, select

from gateway.core.budget import TaskLimits
from gateway.core.overrides import OverrideKind, limits_in_force
from gateway.ledger.life import Execution, Life, read_lives
from gateway.ledger.schema import BREACHES, CALLS, OVERRIDES, PHASE_EXECUTIONS, TASKS
from gateway.store.keys import fixed_fields
from gateway.store.keys import limit_fields as fields_of
from gateway.store.limits import decode_override
from gateway.store.restore import Fields, Tombstone

_LIVE_STATES = ("settled", "released", "expired")


@dataclass(frozen=True, slots=True)
class TaskPast:
    """A task as it was. `overrides` are JSON documents, oldest first; `at_ms` its last act's time.

    `missing` and `least` are fields of its hash: set where there is nothing, or kept if larger.
    `by_acts` names those that acts have made: every store has them that has lost nothing.
    """

    created_ms: int
    at_ms: int
    facts: str
    snapshot: str | None
    overrides: tuple[str, ...]
    missing: Mapping[str, str]
    least: Mapping[str, int]
    trip: tuple[str, ...]
    by_acts: frozenset[str]

    def lacks_limits(self, stored: Fields, history: Sequence[str]) -> bool:
        """Return whether the store has another snapshot than the ledger, or fewer overrides."""
        same_snapshot = stored.get("facts") == self.facts and (
            self.snapshot is None or _same_json(stored.get("snapshot"), self.snapshot)
        )
        return not same_snapshot or not set(self.overrides) <= set(history)

    def lacks_acts(self, stored: Fields) -> bool:
        """Return whether the store does not know what was done to it, or how often it was begun."""
        return not self.by_acts <= stored.keys() or any(
            int(stored.get(name, 0)) < value for name, value in self.least.items()
        )

    def limit_fields(self, overrides: Sequence[str]) -> list[str]:
        """Return field, value, ... of snapshot and limits in force."""
        if self.snapshot is None:
            return ["facts", self.facts]
        limits = msgspec.json.decode(self.snapshot, type=TaskLimits)
        in_force = limits_in_force(limits, map(decode_override, overrides), self.at_ms)
        made = [*fixed_fields(self.facts, limits), *fields_of(in_force)]
        if in_force.expires_ms is not None:
            made += ["expires", str(in_force.expires_ms)]
        return made


class _Place(NamedTuple):
    """Where a task's last call found it: the number of its reserve, its end, its phase."""

    number: int
    at_ms: int
    phase: str | None


def _same_json(one: str | None, other: str) -> bool:
    return one is not None and (
        one == other or msgspec.json.decode(one) == msgspec.json.decode(other)
    )


def read_pasts(connection: Connection, tenant: str, tasks: Sequence[str]) -> dict[str, TaskPast]:
    """Return what is known of some tasks, but for their sums."""
    overrides, resumed = _overrides(connection, tenant, tasks)
    episodes, trips = _trips(connection, tenant, tasks, resumed)
    places, ends = _places(connection, tenant, tasks), _last_ends(connection, tenant, tasks)
    lives = read_lives(connection, tenant, tasks, _executions(connection, tenant, tasks))
    table = TASKS.c
    found = connection.execute(
        select(table.task, table.created_ms, table.facts, table.snapshot, table.provisional).where(
            table.tenant == tenant, table.task.in_(tasks)
        )
    )
    pasts = {}
    for task, created_ms, facts, snapshot, provisional in found:
        place, life = places.get(task), lives[task]
        by_acts = _by_acts(place, life, was_nothing=bool(provisional))
        pasts[task] = TaskPast(
            created_ms,
            created_ms if place is None else place.at_ms,
            facts,
            snapshot,
            tuple(overrides.get(task, ())),
            _by_calls(place, life, ends.get(task, {})) | by_acts,
            _least(episodes.get(task, 0), life),
            trips.get(task, ()),
            frozenset(by_acts),
        )
    return pasts


def _overrides(
    connection: Connection, tenant: str, tasks: Sequence[str]
) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Return each task's overrides, oldest first, and the number of its latest resume."""
    overrides: dict[str, list[str]] = {}
    resumed: dict[str, int] = {}
    for task, number, kind, document in connection.execute(
        select(OVERRIDES.c.task, OVERRIDES.c.number, OVERRIDES.c.kind, OVERRIDES.c.document)
        .where(OVERRIDES.c.tenant == tenant, OVERRIDES.c.task.in_(tasks))
        .order_by(OVERRIDES.c.number)
    ):
        overrides.setdefault(task, []).append(document)
        if kind == OverrideKind.RESUME.value:
            resumed[task] = number
    return overrides, resumed


def _trips(
    connection: Connection, tenant: str, tasks: Sequence[str], resumed: Mapping[str, int]
) -> tuple[dict[str, int], dict[str, tuple[str, ...]]]:
    """Return how often each task tripped, and its last trip if nobody has ended it since.

    A task trips at its own call or at a child's: it is named as the scope.
    """
    episodes: dict[str, int] = {}
    trips: dict[str, tuple[str, ...]] = {}
    for row in connection.execute(
        select(BREACHES)
        .where(BREACHES.c.tenant == tenant, BREACHES.c.name.in_(tasks), BREACHES.c.effect == "trip")
        .order_by(BREACHES.c.number)
    ).mappings():
        task = row["name"]
        episodes[task] = max(episodes.get(task, 0), row["episode"])
        trips[task] = (row["dimension"], row["code"], str(row["at_ms"]))
        if row["number"] < resumed.get(task, 0):
            trips[task] = ()
    return episodes, trips


def _places(connection: Connection, tenant: str, tasks: Sequence[str]) -> dict[str, _Place]:
    """Return each task's place by the call that was let through last."""
    order = func.coalesce(CALLS.c.reserve_number, CALLS.c.number)
    last = (
        select(CALLS.c.task, func.max(order).label("number"))
        .where(CALLS.c.tenant == tenant, CALLS.c.task.in_(tasks), CALLS.c.state.in_(_LIVE_STATES))
        .group_by(CALLS.c.task)
        .subquery()
    )
    found = connection.execute(
        select(CALLS.c.task, last.c.number, CALLS.c.at_ms, CALLS.c.phase)
        .join(
            last,
            and_(
                CALLS.c.tenant == tenant,
                CALLS.c.task == last.c.task,
                order == last.c.number,
            ),
        )
        .where(CALLS.c.tenant == tenant, CALLS.c.task.in_(tasks))  # so that the index is used
    )
    return {task: _Place(number, at_ms, phase) for task, number, at_ms, phase in found}


def _executions(
    connection: Connection, tenant: str, tasks: Sequence[str]
) -> dict[str, dict[Execution, int]]:
    """Return when each task's executions began, in ms."""
    executions: dict[str, dict[Execution, int]] = {}
    table = PHASE_EXECUTIONS.c
    for task, phase, number, started_ms in connection.execute(
        select(table.task, table.phase, table.execution, table.started_ms).where(
            table.tenant == tenant, table.task.in_(tasks)
        )
    ):
        executions.setdefault(task, {})[phase, number] = started_ms
    return executions


def _last_ends(
    connection: Connection, tenant: str, tasks: Sequence[str]
) -> dict[str, dict[Execution, int]]:
    """Return when the last call of each task's executions ended, in ms."""
    ends: dict[str, dict[Execution, int]] = {}
    call = CALLS.c
    chosen = (call.tenant == tenant, call.task.in_(tasks), call.state.in_(_LIVE_STATES))
    for task, phase, number, at_ms in connection.execute(
        select(call.task, call.phase, call.execution, func.max(call.at_ms))
        .where(*chosen, call.phase.is_not(None), call.execution.is_not(None))
        .group_by(call.task, call.phase, call.execution)
    ):
        ends.setdefault(task, {})[phase, number] = at_ms
    return ends


def _by_calls(place: _Place | None, life: Life, ends: Mapping[Execution, int]) -> dict[str, str]:
    missing = {
        f"x.{phase}.{number}.started": str(at) for (phase, number), at in life.started.items()
    }
    if place is not None:
        missing["last"] = str(place.at_ms)
        if place.phase is not None:
            missing["phase"] = place.phase
    return missing | _ended(life, ends)


def _by_acts(place: _Place | None, life: Life, *, was_nothing: bool) -> dict[str, str]:
    fields = dict(life.phase_fields()) | dict(life.state_fields(was_nothing=was_nothing))
    if life.phase is not None and (place is None or life.number > place.number):
        fields["phase"] = life.phase
    return fields


def _ended(life: Life, ends: Mapping[Execution, int]) -> dict[str, str]:
    """Return when executions ended, by word or with their last call, and phases had that."""
    latest: dict[str, int] = {}
    for (phase, _), at_ms in ends.items():
        latest[f"{phase}.last"] = max(at_ms, latest.get(f"{phase}.last", 0))
    for execution in ends.keys() | life.ended.keys():
        phase, number = execution
        latest[f"x.{phase}.{number}.ended"] = max(
            ends.get(execution, 0), life.ended.get(execution, 0)
        )
    return {name: str(at_ms) for name, at_ms in latest.items()}


def _least(episode: int, life: Life) -> dict[str, int]:
    least = ({"episode": episode} if episode else {}) | life.generation_fields()
    for phase, number in life.started:
        least[f"{phase}.exec"] = max(number, least.get(f"{phase}.exec", 0))
    return least | {f"{phase}.closed": number for phase, number in life.closed.items()}


def recent_tombstones(
    connection: Connection, tenant: str, tombstone_ms: int
) -> Iterator[Tombstone]:
    """Yield the calls that ended within `tombstone_ms` of the ledger's latest."""
    latest = connection.scalar(select(func.max(CALLS.c.at_ms)).where(CALLS.c.tenant == tenant))
    if latest is None:
        return
    ended = CALLS.c
    for call in connection.execute(
        select(
            *(ended.call_id, ended.state, ended.phase, ended.execution),
            *(ended.tokens, ended.nano_usd, ended.corrected_ms, ended.windows),
        ).where(
            ended.tenant == tenant,
            ended.at_ms > latest - tombstone_ms,
            ended.state.in_(_LIVE_STATES),
        )
    ):
        yield Tombstone(
            call.call_id,
            call.state if call.corrected_ms is None else "corrected",
            call.phase or "",
            call.execution or 0,
            call.tokens,
            call.nano_usd or 0,
            call.windows or "",
        )
