"""The watch over statistics: says when a figure crosses its threshold (SUC-1, RBK-1, PM1, EC23).

It runs beside the ledger's writer, in its process and only while that holds the ledger. A figure is
told once for as long as it is beyond its threshold; after a restart, once again.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine

from gateway.core.errors import LedgerError
from gateway.core.statistics import Statistics, Trigger, TriggerState, triggers
from gateway.ledger.database import ledger_errors
from gateway.ledger.statistics import statistics

_DAY_MS = 86_400_000
_FIRST_S = 60.0


@dataclass(frozen=True, slots=True)
class FigureRules:
    """Figures of the last `days` are looked at every `interval_s`, first a minute after start."""

    tenants: tuple[str, ...]
    interval_s: float = 900.0
    days: int = 14
    monthly_nano_usd: int | None = None


class StatisticsWatch:
    """Looks at one ledger. `may_tell` says whether this process holds it; `clock` is in seconds.

    `event` is ports.Recorder.event. `alarming` has each figure that has a value: whether it alerts.
    """

    def __init__(
        self,
        rules: FigureRules,
        engine: Engine,
        may_tell: Callable[[], bool],
        event: Callable[..., None],
        clock: Callable[[], float],
    ) -> None:
        self.alarming: dict[str, bool] = {}
        self._rules = rules
        self._engine = engine
        self._may_tell = may_tell
        self._event = event
        self._clock = clock

    async def run(self) -> None:
        """Look every so often until cancelled."""
        await asyncio.sleep(min(_FIRST_S, self._rules.interval_s))
        while True:
            await self.look()
            await asyncio.sleep(self._rules.interval_s)

    async def look(self) -> None:
        """Look at all figures, and tell what has crossed its threshold."""
        if not self._may_tell():
            self.alarming.clear()
            return
        try:
            for tenant in self._rules.tenants:
                figures = await asyncio.to_thread(self._figures, tenant)
                for trigger in triggers(figures, self._rules.monthly_nano_usd):
                    self._tell(trigger)
        except LedgerError:
            pass  # the writer tells of it
        except Exception as error:  # whatever it is, everything else goes on
            problem = f"{type(error).__name__}: {error}"
            self._event("statistics_watch_failed", "error", error=problem)

    def _figures(self, tenant: str) -> Statistics:
        until_ms = int(self._clock() * 1000)
        since_ms = until_ms - self._rules.days * _DAY_MS
        with ledger_errors(), self._engine.connect() as connection:
            return statistics(connection, tenant, since_ms, until_ms)

    def _tell(self, trigger: Trigger) -> None:
        if trigger.state is TriggerState.NO_DATA:
            self.alarming.pop(trigger.name, None)
            return
        alarms, before = trigger.state is TriggerState.ALERT, self.alarming.get(trigger.name)
        self.alarming[trigger.name] = alarms
        if alarms != bool(before):
            self._event(
                "statistics_alert" if alarms else "statistics_calm",
                "warning" if alarms else "info",
                trigger=trigger.name,
                rule=trigger.rule,
                value=trigger.value,
                threshold=trigger.threshold,
            )
