"""The reporter: writes the reports that the ledger's queue asks for, again until it has worked.

It runs beside the ledger's writer, in its process and only while that holds the ledger: so no two
gateways write one, and none is lost. No gate and no call waits for it (REP-1, EC21).
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from gateway.core.errors import LedgerError, StoreError
from gateway.ledger.database import ledger_errors
from gateway.ledger.entries import Row
from gateway.ledger.outbox import Outbox
from gateway.ledger.report_queue import FAILED, WRITTEN, due_reports, note_report
from gateway.reports.evidence import REPORT_FILE, evidence_folder, write_evidence
from gateway.reports.reading import report_to_write
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys
from gateway.store.limits import UnknownTask
from gateway.store.task_view import TaskView
from gateway.store.tasks import read_task

_TICK_S = 0.05
_LOOK_S = 1.0
_BATCH = 20
_STORE_WAIT_S = 2.0
_FLUSH_S = 3.0

Event = Callable[..., None]


@dataclass(frozen=True, slots=True)
class ReportRules:
    """`folder` is the root of all evidence. After attempt n the next waits `backoff_s[n-1]`."""

    folder: Path
    backoff_s: tuple[float, ...] = (1, 2, 5, 10, 30, 60, 120, 300, 600)

    def wait_ms(self, attempts: int) -> int:
        """Return how long to wait after so many attempts have failed, milliseconds."""
        return int(self.backoff_s[min(attempts, len(self.backoff_s)) - 1] * 1000)


class Reporter:
    """Writes the reports of one ledger. `clock` is the time in seconds, as of the epoch.

    `may_write` tells whether this process holds the ledger. `event` is ports.Recorder.event.
    """

    def __init__(
        self,
        rules: ReportRules,
        sources: tuple[Engine, StoreConnection],
        outbox: Outbox,
        may_write: Callable[[], bool],
        event: Event,
        clock: Callable[[], float],
    ) -> None:
        self._rules = rules
        self._engine, self._store = sources
        self._outbox = outbox
        self._may_write = may_write
        self._event = event
        self._clock = clock
        self._held_the_ledger = False

    async def run(self) -> None:
        """Write reports until cancelled."""
        clock, next_look = asyncio.get_running_loop().time, 0.0
        while True:
            if self._outbox.report_news or clock() >= next_look:
                self._outbox.report_news = False
                next_look = clock() + _LOOK_S
                if self._may_write():
                    self._held_the_ledger = True
                    await self._guarded()
            await asyncio.sleep(_TICK_S)

    async def flush(self) -> None:
        """Write what is due before the process ends; what takes too long waits in the queue."""
        if self._held_the_ledger or self._outbox.report_news:
            with suppress(TimeoutError):
                async with asyncio.timeout(_FLUSH_S):
                    await self._guarded()

    async def _guarded(self) -> None:
        """Write what is due; whatever fails is still in the queue then, and done again later."""
        try:
            while await self.write_due() == _BATCH:
                pass
        except LedgerError:  # the writer tells of it
            pass
        except Exception as error:  # whatever it is, everything else goes on
            self._event("report_failed", "error", error=f"{type(error).__name__}: {error}")

    async def write_due(self) -> int:
        """Write some of the reports that are due; return how many. Raises LedgerError."""
        rows = await asyncio.to_thread(self._due)
        for row in rows:
            await self._write(row)
        return len(rows)

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _due(self) -> list[Row]:
        with ledger_errors(), self._engine.connect() as connection:
            return due_reports(connection, self._now_ms(), _BATCH)

    async def _write(self, row: Row) -> None:
        view = await self._view(row["tenant"], row["task"])
        try:
            await asyncio.to_thread(self._make, row, view)
        except Exception as error:  # whatever it is, it holds up no other report
            await self._failed(row, f"{type(error).__name__}: {error}")
            return
        facts = {"task": row["task"], "cause": row["cause"], "file": self._file(row)}
        self._event("report_written", "info", **facts)
        await asyncio.to_thread(self._note, row, WRITTEN, None, 0)

    def _file(self, row: Row) -> str:
        return str(evidence_folder(self._rules.folder, row["task"]) / REPORT_FILE)

    async def _view(self, tenant: str, task: str) -> TaskView | None:
        """Return the task as the store has it; None if that does not tell."""
        try:
            async with asyncio.timeout(_STORE_WAIT_S):
                return await read_task(self._store, TenantKeys(tenant), task)
        except (StoreError, UnknownTask, TimeoutError):
            return None

    def _make(self, row: Row, view: TaskView | None) -> None:
        tenant, task = row["tenant"], row["task"]
        now_ms = view.now_ms if view is not None else self._now_ms()
        report = report_to_write(self._engine, tenant, task, view, now_ms)
        write_evidence(self._rules.folder, report)

    async def _failed(self, row: Row, problem: str) -> None:
        """Tell it once, and try again later."""
        if row["attempts"] == 0:
            remedy = "see that the folder reports.dir can be written; it is tried again"
            facts: Mapping[str, str] = {"task": row["task"], "error": problem, "remedy": remedy}
            self._event("report_failed", "error", **facts)
        due_ms = self._now_ms() + self._rules.wait_ms(row["attempts"] + 1)
        await asyncio.to_thread(self._note, row, FAILED, problem, due_ms)

    def _note(self, row: Row, state: str, error: str | None, due_ms: int) -> None:
        with ledger_errors(), self._engine.begin() as connection:
            note_report(connection, row, state, error, due_ms)
