"""The watch over phases and tasks: tells of each execution that begins and ends, and of each task.

It runs beside the ledger's writer, in its process and only while that holds the ledger: so each is
told by one gateway, once, whichever gateway's call it was that ended it (MET-3, SL-11).
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import Connection, Engine

from gateway.core.acts import TaskState
from gateway.core.errors import LedgerError, StoreError
from gateway.core.phases import WorkPhase
from gateway.ledger.database import ledger_errors
from gateway.ledger.executions import Execution
from gateway.ledger.phase_ends import (
    Begin,
    TaskEnd,
    ended_perhaps,
    mark_ended,
    take_begins,
    take_task_ends,
    untold_executions,
)
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys
from gateway.store.limits import UnknownTask
from gateway.store.task_view import TaskView
from gateway.store.tasks import read_task
from gateway.telemetry.budgets import BudgetTelemetry

if TYPE_CHECKING:
    from gateway.telemetry.otlp import OtlpExport

_MOST = 500
_STORE_WAIT_S = 2.0
_LEDGER_LAGS_MS = 3_600_000  # what it lacks by then, it has lost
_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class WatchRules:
    """How often it looks, and when an idle execution has ended (as in `store/lua/reserve.lua`)."""

    tenants: tuple[str, ...]
    interval_s: float = 10.0
    phase_idle_close_ms: int = 60_000


class PhaseWatch:
    """Tells what a ledger knows. `may_tell` says whether this process holds the ledger.

    `event` is ports.Recorder.event; `export` takes spans, None where nothing is exported.
    """

    def __init__(
        self,
        rules: WatchRules,
        sources: tuple[Engine, StoreConnection],
        telemetry: BudgetTelemetry,
        may_tell: Callable[[], bool],
        event: Callable[..., None],
        export: "OtlpExport | None" = None,
    ) -> None:
        self._rules = rules
        self._engine, self._store = sources
        self._telemetry = telemetry
        self._may_tell = may_tell
        self._event = event
        self._export = export

    async def run(self) -> None:
        """Look every so often until cancelled."""
        while True:
            await asyncio.sleep(self._rules.interval_s)
            await self.look()

    async def look(self) -> None:
        """Tell of everything that was not told; what fails is told the next time."""
        try:
            for tenant in self._rules.tenants if self._may_tell() else ():
                await self._look_at(tenant)
        except (LedgerError, StoreError, TimeoutError):
            pass  # the writer tells of them
        except Exception as error:  # whatever it is, everything else goes on
            self._event("phase_watch_failed", "error", error=f"{type(error).__name__}: {error}")

    async def _look_at(self, tenant: str) -> None:
        for begin in await self._ask(take_begins, tenant):
            self._begun(begin)
        for task in await self._ask(ended_perhaps, tenant):
            await self._look_at_task(tenant, task)
        for end in await self._ask(take_task_ends, tenant):
            self._completed(tenant, end)

    async def _ask(
        self, find: Callable[[Connection, str, int], list[_Found]], tenant: str
    ) -> list[_Found]:
        return await asyncio.to_thread(self._with, lambda one: find(one, tenant, _MOST))

    def _with(self, work: Callable[[Connection], _Found]) -> _Found:
        with ledger_errors(), self._engine.connect() as connection:
            return work(connection)

    def _begun(self, begin: Begin) -> None:
        self._event(
            "phase_started",
            task=begin.task,
            phase=begin.phase,
            execution=begin.execution,
            tokens_limit=begin.tokens_limit,
            latency_limit_ms=begin.latency_limit_ms,
            nano_usd_limit=begin.nano_usd_limit,
        )

    async def _look_at_task(self, tenant: str, task: str) -> None:
        view = await self._view(tenant, task)
        untold = await asyncio.to_thread(
            self._with, lambda one: untold_executions(one, tenant, task)
        )
        ended = [one for one in untold if view is None or self._has_ended(view, one)]
        await asyncio.to_thread(self._with, lambda one: mark_ended(one, tenant, ended))
        self._tell_ends(tenant, ended)

    async def _view(self, tenant: str, task: str) -> TaskView | None:
        """Return the task as the store has it; None for one that it does not know any more."""
        try:
            async with asyncio.timeout(_STORE_WAIT_S):
                return await read_task(self._store, TenantKeys(tenant), task)
        except UnknownTask:
            return None

    def _has_ended(self, view: TaskView, told: Execution) -> bool:
        """Return whether nothing more is to come, and the ledger has all of it."""
        known = view.phases[WorkPhase(told.phase)].executions
        one = next((one for one in known if one.number == told.execution), None)
        if one is None:
            return True
        if one.ended_ms is None:
            return False
        idle_ms = view.now_ms - one.ended_ms
        if one.tokens != told.tokens_used and idle_ms < _LEDGER_LAGS_MS:
            return False
        if view.summary.state is TaskState.COMPLETED or one.wall_ms is not None:
            return True
        is_idle = idle_ms >= self._rules.phase_idle_close_ms
        return one.number < known[-1].number or (is_idle and _another_began(view, told))

    def _tell_ends(self, tenant: str, ended: Sequence[Execution]) -> None:
        for one in ended:
            facts = self._telemetry.record_phase_budget(
                one.phase,
                one.task,
                one.tokens_used,
                one.tokens_limit,
                one.latency_ms,
                one.latency_limit_ms,
                one.status,
                tiers=(one.complexity, one.importance),
            )
            self._event("phase_ended", execution=one.execution, **facts)
            if self._export is not None:
                ended_ms = one.ended_ms or 0
                times_ms = one.started_ms or ended_ms, ended_ms
                self._export.add_phase(tenant, facts, times_ms, one.execution)

    def _completed(self, tenant: str, end: TaskEnd) -> None:
        facts = self._telemetry.record_task_budget(
            end.task,
            end.tokens,
            end.latency_ms,
            end.status,
            tiers=(end.complexity, end.importance),
        )
        self._event("task_ended", **facts)
        if self._export is not None:
            self._export.add_task(tenant, facts, (end.started_ms, end.at_ms))


def _another_began(view: TaskView, told: Execution) -> bool:
    """Return whether the task has gone on to something else since."""
    begins = (one.started_ms or 0 for phase in view.phases.values() for one in phase.executions)
    return any(began_ms > (told.started_ms or 0) for began_ms in begins)
