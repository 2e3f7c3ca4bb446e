"""What phases and tasks came to against their budgets, as metrics: `autopilot.*` (MET-1, MET-6)."""

from typing import Protocol

from gateway.core.budget import BreachStatus
from gateway.telemetry import names
from gateway.telemetry.counters import Counters

_UNKNOWN = "UNKNOWN"


class Instruments(Protocol):
    """Where figures go beside the counters: to a collector, under the names of OpenTelemetry."""

    def add(self, name: str, amount: int, attributes: dict[str, str], task_id: str) -> None:
        """Add to a counter."""

    def observe(self, name: str, value: int, attributes: dict[str, str], task_id: str) -> None:
        """Add to a histogram."""


class BudgetTelemetry:
    """Counts ended executions and completed tasks; no task id is ever a label of these counters."""

    def __init__(self, counters: Counters, instruments: Instruments | None = None) -> None:
        self._counters = counters
        self._instruments = instruments

    def record_phase_budget(  # noqa: PLR0913 -- the signature is MET-6's
        self,
        phase: str,
        task_id: str,
        tokens: int,
        tokens_limit: int | None,
        latency_ms: int,
        latency_limit_ms: int | None,
        breach_status: BreachStatus,
        *,
        tiers: tuple[str | None, str | None] = (None, None),
    ) -> dict[str, object]:
        """Count an execution of a phase that has ended; return what its event tells.

        `tiers` are complexity and importance. Limits are None where there is none.
        """
        complexity, importance = tiers[0] or _UNKNOWN, tiers[1] or _UNKNOWN
        labels = (phase, complexity, importance, breach_status.value)
        self._counters.add(names.PHASE_TOKENS, labels, tokens)
        self._counters.observe_ms(names.PHASE_MS, labels, latency_ms)
        is_breach = breach_status is not BreachStatus.WITHIN
        if is_breach:
            self._counters.add(names.PHASE_BREACHES, labels)
        if self._instruments is not None:
            said = dict(zip(names.PHASE_TOKENS.labels, labels, strict=True))
            self._instruments.add("autopilot.phase.tokens_used", tokens, said, task_id)
            self._instruments.observe("autopilot.phase.latency_ms", latency_ms, said, task_id)
            if is_breach:
                self._instruments.add("autopilot.phase.budget_breach", 1, said, task_id)
        return {
            "task": task_id,
            "phase": phase,
            "tokens": tokens,
            "tokens_limit": tokens_limit,
            "latency_ms": latency_ms,
            "latency_limit_ms": latency_limit_ms,
            "breach_status": breach_status.value,
        }

    def record_task_budget(
        self,
        task_id: str,
        tokens: int,
        latency_ms: int,
        budget_status: BreachStatus,
        *,
        tiers: tuple[str | None, str | None] = (None, None),
    ) -> dict[str, object]:
        """Count a task that was completed; return what its event tells."""
        labels = (tiers[0] or _UNKNOWN, tiers[1] or _UNKNOWN, budget_status.value)
        self._counters.add(names.TASK_TOKENS, labels, tokens)
        self._counters.observe_ms(names.TASK_MS, labels, latency_ms)
        if self._instruments is not None:
            said = dict(zip(names.TASK_TOKENS.labels, labels, strict=True))
            self._instruments.add("autopilot.task.tokens_total", tokens, said, task_id)
            self._instruments.observe("autopilot.task.latency_total_ms", latency_ms, said, task_id)
        return {
            "task": task_id,
            "tokens": tokens,
            "latency_ms": latency_ms,
            "budget_status": budget_status.value,
        }
