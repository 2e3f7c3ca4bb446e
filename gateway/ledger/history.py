"""What a task was, as far as the ledger knows: its snapshot, overrides, trip, place in the work."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from sqlalchemy import Connection, and_, func, select

from gateway.core.budget import TaskLimits
from gateway.core.overrides import OverrideKind, limits_in_force
from gateway.ledger.schema import AUDIT, BREACHES, CALLS, OVERRIDES, PHASE_EXECUTIONS, TASKS
from gateway.store.keys import limit_fields as fields_of
from gateway.store.keys import snapshot_fields
from gateway.store.limits import decode_override
from gateway.store.restore import Fields, Tombstone

_LIVE_STATES = ("settled", "released", "expired")


@dataclass(frozen=True, slots=True)
class TaskPast:
    """A task as it was. `overrides` are JSON documents, oldest first; `at_ms` its last act's time.

    `missing` and `least` are fields of its hash: set where there is nothing, or kept if larger.
    """

    created_ms: int
    at_ms: int
    facts: str
    snapshot: str | None
    overrides: tuple[str, ...]
    missing: Mapping[str, str]
    least: Mapping[str, int]
    trip: tuple[str, ...]

    def lacks(self, stored: Fields, history: Sequence[str]) -> bool:
        """Return whether the store has another snapshot than the ledger, or fewer overrides."""
        same_snapshot = stored.get("facts") == self.facts and (
            self.snapshot is None or _same_json(stored.get("snapshot"), self.snapshot)
        )
        return not same_snapshot or not set(self.overrides) <= set(history)

    def limit_fields(self, overrides: Sequence[str]) -> list[str]:
        """Return field, value, ... of snapshot and limits in force."""
        if self.snapshot is None:
            return ["facts", self.facts]
        limits = msgspec.json.decode(self.snapshot, type=TaskLimits)
        in_force = limits_in_force(limits, map(decode_override, overrides), self.at_ms)
        fields = snapshot_fields(self.facts, limits)
        version = fields.index("version")
        made = [*fields[:version], *fields_of(in_force)]
        if in_force.expires_ms is not None:
            made += ["expires", str(in_force.expires_ms)]
        return made


def _same_json(one: str | None, other: str) -> bool:
    return one is not None and (
        one == other or msgspec.json.decode(one) == msgspec.json.decode(other)
    )


def read_pasts(connection: Connection, tenant: str, tasks: Sequence[str]) -> dict[str, TaskPast]:
    """Return what is known of some tasks, but for their sums."""
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
    episodes, trips = _trips(connection, tenant, tasks, resumed)
    places = _places(connection, tenant, tasks)
    executions, states = _executions(connection, tenant, tasks), _states(connection, tenant, tasks)
    reopened = _reopened(connection, tenant, tasks)
    found = connection.execute(
        select(TASKS.c.task, TASKS.c.created_ms, TASKS.c.facts, TASKS.c.snapshot).where(
            TASKS.c.tenant == tenant, TASKS.c.task.in_(tasks)
        )
    )
    return {
        task: TaskPast(
            created_ms,
            places.get(task, (created_ms, None))[0],
            facts,
            snapshot,
            tuple(overrides.get(task, ())),
            _missing(places.get(task), executions.get(task, [])) | states.get(task, {}),
            _least(episodes.get(task, 0), executions.get(task, []), reopened.get(task, 0)),
            trips.get(task, ()),
        )
        for task, created_ms, facts, snapshot in found
    }


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


def _states(connection: Connection, tenant: str, tasks: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the fields of the state that each task was put into last, if it still is.

    Where a call has reopened a completed task, nobody told: it is completed again then.
    """
    states: dict[str, dict[str, str]] = {}
    table = AUDIT.c
    for task, at_ms, details in connection.execute(
        select(table.subject, table.at_ms, table.details)
        .where(table.tenant == tenant, table.subject.in_(tasks), table.action.like("task.%"))
        .order_by(table.number)
    ):
        state = msgspec.json.decode(details).get("state")
        if state not in (None, "-"):
            states[task] = {"state": state, "state_ms": str(at_ms)}
    return {task: fields for task, fields in states.items() if fields["state"] != "open"}


def _places(
    connection: Connection, tenant: str, tasks: Sequence[str]
) -> dict[str, tuple[int, str | None]]:
    """Return the time and the phase of the call of each task that was let through last."""
    order = func.coalesce(CALLS.c.reserve_number, CALLS.c.number)
    last = (
        select(CALLS.c.task, func.max(order).label("number"))
        .where(CALLS.c.tenant == tenant, CALLS.c.task.in_(tasks), CALLS.c.state.in_(_LIVE_STATES))
        .group_by(CALLS.c.task)
        .subquery()
    )
    found = connection.execute(
        select(CALLS.c.task, CALLS.c.at_ms, CALLS.c.phase)
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
    return {task: (at_ms, phase) for task, at_ms, phase in found}


def _executions(
    connection: Connection, tenant: str, tasks: Sequence[str]
) -> dict[str, list[tuple[str, int, int]]]:
    """Return (phase, number, start) of each task's executions."""
    executions: dict[str, list[tuple[str, int, int]]] = {}
    table = PHASE_EXECUTIONS.c
    for task, phase, number, started_ms in connection.execute(
        select(table.task, table.phase, table.execution, table.started_ms).where(
            table.tenant == tenant, table.task.in_(tasks)
        )
    ):
        executions.setdefault(task, []).append((phase, number, started_ms))
    return executions


def _missing(
    place: tuple[int, str | None] | None, executions: list[tuple[str, int, int]]
) -> dict[str, str]:
    missing = {f"x.{phase}.{number}.started": str(at) for phase, number, at in executions}
    if place is not None:
        at_ms, phase = place
        missing["last"] = str(at_ms)
        if phase is not None:
            missing["phase"] = phase
    return missing


def _reopened(connection: Connection, tenant: str, tasks: Sequence[str]) -> dict[str, int]:
    """Return how often each task was reopened, if it was."""
    table = AUDIT.c
    found = connection.execute(
        select(table.subject, func.count())
        .where(table.tenant == tenant, table.subject.in_(tasks), table.action == "task.reopen")
        .group_by(table.subject)
    )
    return {task: count for task, count in found}


def _least(episode: int, executions: list[tuple[str, int, int]], reopened: int) -> dict[str, int]:
    least = {"episode": episode} if episode else {}
    if reopened:
        least["generation"] = reopened + 1
    for phase, number, _ in executions:
        least[f"{phase}.exec"] = max(number, least.get(f"{phase}.exec", 0))
    return least


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
