"""Executions as they were worked on, the same on both databases."""

from dataclasses import replace

from gateway.core.budget import BreachStatus
from gateway.core.phases import Complexity, ImportanceTier
from gateway.ledger.executions import ExecutionFilter, find_executions, phase_breakdown
from tests.ledger.desk import Desk, call
from tests.store.agent import Agent


async def test_executions_as_trk_1_wants_them(worked: Desk) -> None:
    """Numbers, start, end, used, limits, status, factors; the boundaries are exact (TRK-2)."""
    with worked.connect() as ledger:
        plan, think, again = phase_breakdown(ledger, worked.tenant, "T")
    assert (plan.phase, plan.execution, plan.tokens_used, plan.tokens_limit) == (
        "PLAN",
        1,
        2_000,
        2_400,
    )
    assert (plan.started_ms, plan.ended_ms, plan.latency_ms) == (1_000_000, 1_001_000, 1_000)
    assert (plan.status, plan.tokens_estimated, plan.latency_limit_ms) == (
        BreachStatus.WITHIN,
        False,
        60_000,
    )
    assert (think.tokens_used, think.status) == (9_001, BreachStatus.EXCEEDED)
    assert think.tokens_estimated
    assert (think.complexity, think.importance, think.config_hash) == ("Medium", "medium", "h1")
    assert think.calculation["phase_weight"] == "1.5"
    assert (again.phase, again.execution, again.latency_ms) == ("PLAN", 2, 61_000)
    assert again.status is BreachStatus.WARNING  # by its latency


async def test_executions_by_status_tier_and_time(worked: Desk, agent: Agent) -> None:
    """FU-01.3: what was exceeded, of which tasks."""
    agent.task = "U"
    agent.facts = replace(agent.facts, importance=ImportanceTier.LOW, complexity=Complexity.TINY)
    await call(agent, "PLAN", 2_401, ms=10)
    await worked.written()
    with worked.connect() as ledger:

        def found(**wanted: object) -> list[tuple[str, str, int]]:
            chosen = ExecutionFilter(**wanted)  # type: ignore[arg-type]
            return [
                (one.task, one.phase, one.execution)
                for one in find_executions(ledger, worked.tenant, chosen)
            ]

        assert found(status=BreachStatus.EXCEEDED) == [("T", "THINK", 1)]
        assert found(status=BreachStatus.WARNING) == [("T", "PLAN", 2), ("U", "PLAN", 1)]
        assert found(importance="low", complexity="Tiny") == [("U", "PLAN", 1)]
        assert found(until_ms=1_001_001) == [("T", "PLAN", 1)]
        assert found(phase="PLAN", since_ms=1_100_000) == [("T", "PLAN", 2), ("U", "PLAN", 1)]
