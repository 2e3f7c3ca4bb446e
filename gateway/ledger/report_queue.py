"""The queue of reports: which tasks need one written, put down with what it follows from.

One row a task, so the queue is bounded by what there is to tell: a task that gives several causes
while nobody writes has one report. A batch that is read again asks again, which changes no figure.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, select, update

from gateway.core.phases import WorkPhase
from gateway.ledger.database import upsert
from gateway.ledger.entries import Row, Rows
from gateway.ledger.schema import REPORTS

PENDING, FAILED, WRITTEN = "pending", "failed", "written"
_ENDS = {"task.complete": "complete", "task.kill": "kill"}
_FINAL = tuple(_ENDS.values())
_OF_PHASE = {"phase.end": "verify", "gate.pass": "gate"}  # causes, if the phase is VERIFY
_NO_FIGURES = ("report.", "gate.")  # acts that change none
_LATE_MS = 10_000  # calls that end behind a final report: so long they are waited for


def queue_reports(connection: Connection, rows: Rows) -> bool:
    """Put down which reports follow from a batch, within its transaction; True if any does."""
    asked = {row["task"]: row for row in _causes(rows) if not row["task"].startswith("-")}
    if asked:
        insert = upsert(connection, REPORTS)
        new = insert.excluded
        names = ("cause", "asked_ms", "state", "attempts", "due_ms", "error")
        values: dict[str, Any] = {name: new[name] for name in names}
        values["version"] = REPORTS.c.version + 1
        connection.execute(
            insert.on_conflict_do_update(index_elements=["tenant", "task"], set_=values),
            list(asked.values()),
        )
    changed = _ask_again(connection, rows)
    return bool(asked) or changed


def _causes(rows: Rows) -> Iterator[Row]:
    """Yield a row for each thing that ends VERIFY or the task."""
    for began in rows.phase_executions:
        if WorkPhase(began["phase"]).order > WorkPhase.VERIFY.order:
            yield _row(began, began["task"], "verify", began["started_ms"])
    for call in filter(_is_shut_gate, rows.calls):
        yield _row(call, call["task"], "gate", call["at_ms"])
    for line in rows.breaches:
        if line["effect"] == "trip":
            yield _row(line, line["name"], "trip", line["at_ms"])
    for act in rows.audit:
        if cause := _cause_of(act):
            yield _row(act, act["subject"], cause, act["at_ms"])


def _is_shut_gate(call: Row) -> bool:
    return call["state"] == "refused" and (call["path"], call["phase"]) == ("gate", "VERIFY")


def _cause_of(act: Row) -> str | None:
    """Return what an act ends, if anything."""
    if act["action"] not in _OF_PHASE:
        return _ENDS.get(act["action"])
    phase = msgspec.json.decode(act["details"]).get("phase")
    return _OF_PHASE[act["action"]] if phase == WorkPhase.VERIFY.value else None


def _row(of: Row, task: str, cause: str, asked_ms: int) -> Row:
    return {
        "tenant": of["tenant"],
        "task": task,
        "cause": cause,
        "asked_ms": asked_ms,
        "version": 1,
        "state": PENDING,
        "attempts": 0,
        "due_ms": 0,
        "error": None,
    }


def _ask_again(connection: Connection, rows: Rows) -> bool:
    """Ask anew for reports whose figures a batch has changed: by an act, or by late calls.

    Calls count only behind a task's end, and are gathered for a while; before it, the next cause
    has them.
    """
    acts: dict[str, Row] = {
        act["subject"]: act for act in rows.audit if not act["action"].startswith(_NO_FIGURES)
    }
    late = {call["task"]: call for call in rows.calls if call["task"] not in acts}
    if not acts and not late:
        return False
    table = REPORTS.c
    tenant = next(iter((acts or late).values()))["tenant"]
    written = [table.tenant == tenant, table.state == WRITTEN]
    again = {"state": PENDING, "attempts": 0, "version": table.version + 1}
    changed = 0
    if acts:
        chosen = update(REPORTS).where(*written, table.task.in_(list(acts)))
        changed += connection.execute(chosen.values(**again, due_ms=0)).rowcount
    if late:
        due_ms = max(call["at_ms"] for call in late.values()) + _LATE_MS
        chosen = update(REPORTS).where(
            *written, table.task.in_(list(late)), table.cause.in_(_FINAL)
        )
        changed += connection.execute(chosen.values(**again, due_ms=due_ms)).rowcount
    return changed > 0


def due_reports(connection: Connection, now_ms: int, most: int) -> list[Row]:
    """Return reports that are to be written now, those first that were asked for first."""
    table = REPORTS.c
    found = connection.execute(
        select(REPORTS)
        .where(table.state.in_((PENDING, FAILED)), table.due_ms <= now_ms)
        .order_by(table.asked_ms, table.tenant, table.task)
        .limit(most)
    )
    return [dict(row) for row in found.mappings()]


def note_report(
    connection: Connection, row: Row, state: str, error: str | None, due_ms: int
) -> None:
    """Note how an attempt ended, unless the report was asked for anew meanwhile."""
    table = REPORTS.c
    connection.execute(
        update(REPORTS)
        .where(
            table.tenant == row["tenant"],
            table.task == row["task"],
            table.version == row["version"],
        )
        .values(state=state, attempts=row["attempts"] + 1, error=error, due_ms=due_ms)
    )


def delete_written(connection: Connection, tenant: str, before_ms: int) -> None:
    """Forget reports that were written long ago; their files stay."""
    table = REPORTS.c
    connection.execute(
        delete(REPORTS).where(
            table.tenant == tenant, table.asked_ms < before_ms, table.state == WRITTEN
        )
    )
