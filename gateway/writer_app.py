"""The composition root of the ledger's writer: builds its parts and hands them to each other.

Run as `python -m gateway.writer_app <control fd>` by the supervisor. It imports nothing of the data
plane, and the data plane nothing of SQL.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from gateway.control import (
    LedgerPlan,
    LedgerTelemetry,
    TelemetryPlan,
    UseWebhooks,
    frame,
    receive,
)
from gateway.core.webhook import WebhookPolicy
from gateway.dispatch.dispatcher import Dispatcher, DispatchRules
from gateway.dispatch.phase_watch import PhaseWatch, WatchRules
from gateway.dispatch.statistics_watch import FigureRules, StatisticsWatch
from gateway.ledger.database import open_engine
from gateway.ledger.outbox import Outbox
from gateway.ledger.writer import LedgerWriter, WriterRules
from gateway.reports.reporter import Reporter, ReportRules
from gateway.store.address import parse_store_url
from gateway.store.connection import StoreConnection
from gateway.telemetry import names
from gateway.telemetry.budgets import BudgetTelemetry
from gateway.telemetry.counters import Counters
from gateway.telemetry.event_log import EventLog
from gateway.telemetry.recorder import CountingRecorder

if TYPE_CHECKING:
    from gateway.telemetry.otlp import OtlpExport

_TELEMETRY_S = 1.0
_STORE_TIMEOUT_MS = 5_000
_LAST_EXPORT_S = 3.0


class WriterApp:
    """The writer with its connection to the store, and what it tells the supervisor."""

    def __init__(self, plan: LedgerPlan, out: asyncio.StreamWriter) -> None:
        self._out = out
        self._counters = Counters()
        self._log = EventLog(
            sys.stderr.buffer,
            time.time,
            form=plan.log_format,
            level=plan.log_level,
            source=f"ledger-{os.getpid()}",
        )
        recorder = CountingRecorder(self._counters, self._log, log_calls=False)
        self._connection = StoreConnection(parse_store_url(plan.store_url), _STORE_TIMEOUT_MS)
        rules = WriterRules(
            tenants=plan.tenants,
            refusal_status=plan.refusal_status,
            rebuilds=plan.rebuilds,
            retention_days=plan.retention_days,
            size_alert_bytes=plan.size_alert_bytes,
            tombstone_ms=plan.tombstone_ms,
        )
        engine = open_engine(plan.ledger_url)
        self._outbox = Outbox(
            plan.webhooks, bool(plan.roadmap_file), plan.evidence_dir, has_reports=plan.reports
        )
        self._export = _export(plan.telemetry, self._counters, recorder.event)
        self.writer = LedgerWriter(
            rules,
            self._connection,
            engine,
            recorder.event,
            self._outbox,
            self._export.add_calls if self._export is not None else None,
        )
        told = plan.telemetry
        self._watch = PhaseWatch(
            WatchRules(plan.tenants, told.interval_s, told.phase_idle_close_ms),
            (engine, self._connection),
            BudgetTelemetry(self._counters, self._export),
            lambda: told.tells and self.writer.state.writing,
            recorder.event,
            self._export,
        )
        self._dispatcher = Dispatcher(
            DispatchRules(Path(plan.roadmap_file) if plan.roadmap_file else None),
            engine,
            self._outbox,
            lambda: self.writer.state.writing,
            recorder.event,
            time.time,
        )
        self._reporter = Reporter(
            ReportRules(Path(plan.evidence_dir)),
            (engine, self._connection),
            self._outbox,
            lambda: plan.reports and self.writer.state.writing,
            recorder.event,
            time.time,
        )

        self._figures = StatisticsWatch(
            FigureRules(plan.tenants, told.statistics_s, monthly_nano_usd=told.monthly_nano_usd),
            engine,
            lambda: told.tells and self.writer.state.writing,
            recorder.event,
            time.time,
        )
        self._looks_at_figures = told.statistics_s > 0

    def use_webhooks(self, webhooks: tuple[WebhookPolicy, ...]) -> None:
        """Post what happens from now on to these."""
        self._outbox.webhooks = webhooks

    async def run(self) -> None:
        """Write until told to stop."""
        await self._connection.open_or_keep_trying()
        loop = asyncio.get_running_loop()
        parts = [self._keep_telling(), self._dispatcher.run(), self._reporter.run()]
        parts.append(self._watch.run())
        if self._export is not None:
            parts.append(self._export.run())
        if self._looks_at_figures:
            parts.append(self._figures.run())
        beside = [loop.create_task(part) for part in parts]
        try:
            await self.writer.run()
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            await self._reporter.flush()
            if self._export is not None:
                with suppress(TimeoutError):  # a collector that is slow is not waited for
                    async with asyncio.timeout(_LAST_EXPORT_S):
                        await self._export.flush()
            self._tell()
            await self._connection.close()

    async def _keep_telling(self) -> None:
        while True:
            await asyncio.sleep(_TELEMETRY_S)
            self._tell()

    def _tell(self) -> None:
        state = self.writer.state
        rows, state.rows = state.rows, {}
        for table, amount in rows.items():
            self._counters.add(names.LEDGER_ROWS, (table,), amount)
        if not self._out.is_closing():
            alarming = self._figures.alarming
            told = LedgerTelemetry(self._counters.take(), state.writing, state.size_bytes, alarming)
            self._out.write(frame(told))
        self._log.flush()


def _export(
    plan: TelemetryPlan, counters: Counters, event: Callable[..., None]
) -> "OtlpExport | None":
    """Return what exports; nothing of OpenTelemetry is loaded where nothing is."""
    if not plan.otlp_endpoint:
        return None
    from gateway.telemetry.otlp import OtlpExport, OtlpRules

    rules = OtlpRules(plan.otlp_endpoint, plan.otlp_headers, plan.interval_s, plan.include_task_id)
    return OtlpExport(rules, counters, event, socket.gethostname())


async def run_writer(control: socket.socket) -> None:
    """Run a writer until SIGTERM, or until the supervisor is gone."""
    reader, out = await asyncio.open_connection(sock=control)
    plan = await receive(reader)
    if not isinstance(plan, LedgerPlan):
        raise TypeError("the first message must be LedgerPlan")
    app = WriterApp(plan, out)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, app.writer.stop)
    watching = loop.create_task(_listen(reader, app))
    await app.run()
    watching.cancel()
    out.close()


async def _listen(reader: asyncio.StreamReader, app: WriterApp) -> None:
    """Do as the supervisor says; stop when it is gone."""
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            message = await receive(reader)
            if isinstance(message, UseWebhooks):
                app.use_webhooks(message.webhooks)
    app.writer.stop()


def main() -> None:
    """Run a writer on the inherited control socket."""
    uvloop.run(run_writer(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    main()
