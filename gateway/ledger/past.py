"""What happened, in the order in which the store decided it: for playing it again (GW-17)."""

import heapq
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, func, select

from gateway.core.overrides import Override
from gateway.ledger.schema import AUDIT, CALLS, INHERITED_LATENCY, OVERRIDES, RECORDS, TASKS

_PAGE = 1_000
_US_PER_MS = 1_000  # the store numbers its acts by the microseconds of its clock
_STEERING = ("task.kill", "task.resume", "task.complete", "phase.end")
_read_override = msgspec.json.Decoder(Override).decode


class PastCall(Struct, frozen=True):
    """One call. `begins` and `ends` are the sequence numbers of its reserve and its end.

    Its times are those of the store's decisions, from these numbers. A call that was refused ends
    where it begins, and used nothing. `named_phase` is the phase that
    it named itself, `phase` the one that it counted in. `decision` is allow, flag or refuse.
    """

    call_id: str
    begins: int
    ends: int
    task: str
    key: str | None
    phase: str | None
    named_phase: str | None
    started_ms: int
    ended_ms: int
    model: str
    path: str
    decision: str
    tokens: int
    nano_usd: int
    held_tokens: int
    held_nano_usd: int
    input_tokens: int
    output_tokens: int
    task_latency_ms: int
    phase_latency_ms: int


class PastAct(Struct, frozen=True):
    """What somebody did to a task: an override, or a `verb` such as `task.kill`."""

    begins: int
    at_ms: int
    task: str
    verb: str = ""
    override: Override | None = None
    phase: str | None = None


class PastTask(Struct, frozen=True):
    """A task as the store wrote it down when it was made; `snapshot` is JSON of its limits."""

    facts: str
    snapshot: str | None


Past = PastCall | PastAct


class History:
    """One tenant's calls and acts; `begins` orders both."""

    def __init__(self, connection: Connection, tenant: str) -> None:
        self._connection = connection
        self._tenant = tenant

    def events(self, since_ms: int | None = None, until_ms: int | None = None) -> Iterator[Past]:
        """Yield calls of a period, and all acts, in the order of the store's numbers."""
        acts = sorted((*self._overrides(), *self._steering()), key=lambda act: act.begins)
        return heapq.merge(acts, self._calls(since_ms, until_ms), key=lambda past: past.begins)

    def task(self, task: str) -> PastTask | None:
        """Return a task, None if the ledger has lost it."""
        wanted = select(TASKS.c.facts, TASKS.c.snapshot).where(
            TASKS.c.tenant == self._tenant, TASKS.c.task == task
        )
        row = self._connection.execute(wanted).one_or_none()
        return PastTask(row.facts, row.snapshot) if row is not None else None

    def key(self, key_id: str) -> bytes | None:
        """Return a gateway key as JSON, None if it is not on record."""
        wanted = select(RECORDS.c.document).where(
            RECORDS.c.tenant == self._tenant, RECORDS.c.subject == f"key:{key_id}"
        )
        document = self._connection.scalar(wanted)
        return document.encode() if document else None

    def inherited(self, call_id: str) -> dict[str, int]:
        """Return what a call's end added to the latency of its task's ancestors."""
        table = INHERITED_LATENCY.c
        wanted = select(table.ancestor, table.latency_ms).where(
            table.tenant == self._tenant, table.call_id == call_id
        )
        return {ancestor: int(added) for ancestor, added in self._connection.execute(wanted)}

    def _calls(self, since_ms: int | None, until_ms: int | None) -> Iterator[PastCall]:
        call = CALLS.c
        begins = func.coalesce(call.reserve_number, call.number).label("begins")
        statement = select(CALLS, begins).where(call.tenant == self._tenant)
        statement = statement.where(call.state != "released", call.path.is_distinct_from("gate"))
        if since_ms is not None:
            statement = statement.where(call.started_ms >= since_ms)
        if until_ms is not None:
            statement = statement.where(call.started_ms < until_ms)
        streamed = self._connection.execution_options(yield_per=_PAGE)
        for row in streamed.execute(statement.order_by(begins)).mappings():
            yield _call(row)

    def _overrides(self) -> Iterator[PastAct]:
        table = OVERRIDES.c
        wanted = select(table.number, table.task, table.document).where(
            table.tenant == self._tenant
        )
        for number, task, document in self._connection.execute(wanted):
            override = _read_override(document)
            yield PastAct(number, override.created_ms, task, override=override)

    def _steering(self) -> Iterator[PastAct]:
        act = AUDIT.c
        wanted = select(act.number, act.at_ms, act.subject, act.action, act.details).where(
            act.tenant == self._tenant, act.action.in_(_STEERING)
        )
        for number, at_ms, task, action, details in self._connection.execute(wanted):
            phase = msgspec.json.decode(details).get("phase")
            yield PastAct(number, at_ms, task, verb=action, phase=phase)


def _call(row: Any) -> PastCall:
    is_refused = row["state"] == "refused"
    tags = msgspec.json.decode(row["tags"]) if row["tags"] else {}
    usage = (row["input_tokens"] or 0, row["output_tokens"] or 0)
    return PastCall(
        call_id=row["call_id"],
        begins=row["begins"],
        ends=row["number"],
        task=row["task"],
        key=row["key"] or None,
        phase=row["phase"],
        named_phase=tags.get("phase"),
        started_ms=row["begins"] // _US_PER_MS,
        ended_ms=row["number"] // _US_PER_MS,
        model=row["model"] or "",
        path=row["path"] or "",
        decision="refuse" if is_refused else row["decision"] or "allow",
        tokens=0 if is_refused else row["tokens"],
        nano_usd=0 if is_refused else row["nano_usd"] or 0,
        held_tokens=row["held_tokens"] or 0,
        held_nano_usd=row["held_nano_usd"] or 0,
        input_tokens=usage[0],
        output_tokens=usage[1],
        task_latency_ms=row["task_latency_ms"],
        phase_latency_ms=row["phase_latency_ms"],
    )
