"""What phases and tasks came to, as counters under the names of the plan."""

from typing import Any

import pytest

from gateway.core.budget import BreachStatus
from gateway.telemetry.budgets import BudgetTelemetry
from gateway.telemetry.counters import Counters


def told(counters: Counters) -> dict[str, dict[tuple[str, ...], int]]:
    found: dict[str, dict[tuple[str, ...], int]] = {}
    for name, labels, amount in counters.take():
        found.setdefault(name, {})[labels] = amount
    return found


@pytest.mark.parametrize("status", BreachStatus)
def test_MET1_MET2_MET6_an_ended_phase_is_counted(status: BreachStatus) -> None:
    """A breach only where there is one; the buckets are those of phases, not of calls."""
    counters = Counters()
    telemetry = BudgetTelemetry(counters)
    facts = telemetry.record_phase_budget(
        "PLAN", "T", 2_500, 2_400, 45_000, 60_000, status, tiers=("Small", "high")
    )
    assert facts == {
        "task": "T",
        "phase": "PLAN",
        "tokens": 2_500,
        "tokens_limit": 2_400,
        "latency_ms": 45_000,
        "latency_limit_ms": 60_000,
        "breach_status": status.value,
    }
    labels = ("PLAN", "Small", "high", status.value)
    found = told(counters)
    assert found.pop("autopilot_phase_tokens_used_total") == {labels: 2_500}
    assert found.pop("autopilot_phase_latency_ms:60000") == {labels: 1}
    assert found.pop("autopilot_phase_latency_ms:sum") == {labels: 45_000}
    assert found.pop("autopilot_phase_latency_ms:count") == {labels: 1}
    breaches = {} if status is BreachStatus.WITHIN else {labels: 1}
    assert found.pop("autopilot_phase_budget_breach_total", {}) == breaches
    assert found == {}


def test_MET1_a_completed_task_is_counted() -> None:
    """Tiers that are not known are no series of their own."""
    counters = Counters()
    BudgetTelemetry(counters).record_task_budget("T", 9, 90_000_000, BreachStatus.EXCEEDED)
    labels = ("UNKNOWN", "UNKNOWN", "exceeded")
    found = told(counters)
    assert found["autopilot_task_tokens_total"] == {labels: 9}
    assert found["autopilot_task_latency_total_ms:+Inf"] == {labels: 1}


def test_MET1_instruments_have_the_names_of_the_plan() -> None:
    class Seen:
        def __init__(self) -> None:
            self.told: list[tuple[Any, ...]] = []

        def add(self, *told: Any) -> None:
            self.told.append(told)

        observe = add

    seen = Seen()
    telemetry = BudgetTelemetry(Counters(), seen)
    telemetry.record_phase_budget("PR", "T", 7, None, 8, None, BreachStatus.WARNING)
    telemetry.record_task_budget("T", 7, 8, BreachStatus.WITHIN)
    of_phase = {
        "phase": "PR",
        "complexity": "UNKNOWN",
        "importance": "UNKNOWN",
        "breach_status": "warning",
    }
    of_task = {"complexity": "UNKNOWN", "importance": "UNKNOWN", "budget_status": "within"}
    assert seen.told == [
        ("autopilot.phase.tokens_used", 7, of_phase, "T"),
        ("autopilot.phase.latency_ms", 8, of_phase, "T"),
        ("autopilot.phase.budget_breach", 1, of_phase, "T"),
        ("autopilot.task.tokens_total", 7, of_task, "T"),
        ("autopilot.task.latency_total_ms", 8, of_task, "T"),
    ]
