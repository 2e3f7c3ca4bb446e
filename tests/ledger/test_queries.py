"""Each question has one answer, the same on both databases."""

from dataclasses import replace

import pytest
from sqlalchemy import Connection

from gateway.core.budget import Amounts, BreachStatus, Dimension, TaskProfile, task_limits
from gateway.core.call_facts import CallAbout, CallOutcome
from gateway.core.overrides import Override, OverrideKind
from gateway.core.phases import Complexity, ImportanceTier
from gateway.core.usage import Usage, UsageSource
from gateway.ledger.queries import (
    CallFilter,
    ExecutionFilter,
    audit_entries,
    budget_status,
    cumulative_usage,
    find_breaches,
    find_calls,
    find_executions,
    overrides_of,
    phase_breakdown,
    usage_of_calls,
)
from gateway.ports import ReservePlan
from gateway.store.connection import StoreConnection
from gateway.store.redis_store import RedisStore
from tests.ledger.desk import Desk
from tests.store.agent import Agent, budgets, settlement


@pytest.fixture
def desk(connection: StoreConnection, tenant: str, ledger_url: str) -> Desk:
    return Desk(tenant, connection, ledger_url)


@pytest.fixture
def agent(store: RedisStore, tenant: str) -> Agent:
    made = Agent(
        store, tenant, limits=task_limits(replace(budgets(), config_hash="h1"), TaskProfile())
    )
    made.at(1_000_000)
    return made


async def call(
    agent: Agent, phase: str, tokens: int, *, ms: int, model: str = "m", estimated: bool = False
) -> ReservePlan:
    """A call of some milliseconds."""
    about = CallAbout(
        model=model,
        complexity=agent.facts.complexity.value,
        importance=agent.facts.importance.value,
    )
    plan, _ = await agent.reserve(phase, about=about)
    agent.at(int(agent.store.now_ms) + ms)
    source = UsageSource.ESTIMATED if estimated else UsageSource.PROVIDER
    outcome = CallOutcome(
        decision="allow",
        usage=Usage(input_total=tokens),
        source=source.value,
        priced=True,
        latency_ms=ms,
    )
    usage = outcome.usage
    await agent.store.settle(
        settlement(plan, tokens, tokens * 2, usage=usage, source=source, outcome=outcome)
    )
    return plan


@pytest.fixture
async def worked(agent: Agent, desk: Desk) -> Desk:
    """PLAN: 2,000 and, later again, 2,000 of 2,400 tokens; THINK: 9,001 of 6,000, one estimated."""
    await call(agent, "PLAN", 2_000, ms=1_000)
    await call(agent, "THINK", 6_001, ms=1_000, estimated=True)
    await call(agent, "THINK", 3_000, ms=500, model="other")
    agent.at(1_100_000)
    await call(agent, "PLAN", 2_000, ms=61_000)
    await desk.written()
    return desk


def connected(desk: Desk) -> Connection:
    return desk.engine.connect()


async def test_calls_by_anything(worked: Desk) -> None:
    """Task, phase, tier, model, state, decision, time; latest first, page by page."""
    tenant = worked.tenant
    with connected(worked) as ledger:

        def tokens(**wanted: object) -> list[int]:
            chosen = CallFilter(**wanted)  # type: ignore[arg-type]
            return [row["tokens"] for row in find_calls(ledger, tenant, chosen, limit=10)]

        assert tokens() == [2_000, 3_000, 6_001, 2_000]
        assert tokens(phase="THINK") == [3_000, 6_001]
        assert tokens(model="other", importance="medium", complexity="Medium") == [3_000]
        assert tokens(task="no") == tokens(importance="low") == tokens(state="refused") == []
        assert tokens(decision="allow", since_ms=1_001_001, until_ms=1_002_500) == [6_001]
        first = find_calls(ledger, tenant, limit=3)
        (last,) = find_calls(ledger, tenant, limit=3, below_number=first[-1]["number"])
        assert last["tokens"] == 2_000
        used = usage_of_calls(ledger, tenant, CallFilter(phase="THINK"))
        assert (used.calls, used.tokens, used.nano_usd) == (2, 9_001, 18_002)
        assert (used.estimated_tokens, used.unpriced_calls, used.refused) == (6_001, 0, 0)


async def test_executions_as_trk_1_wants_them(worked: Desk) -> None:
    """Numbers, start, end, used, limits, status, factors; the boundaries are exact (TRK-2)."""
    with connected(worked) as ledger:
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
    with connected(worked) as ledger:

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


async def test_status_of_a_budget(worked: Desk, agent: Agent) -> None:
    """Used against limit, grants and line, under the overrides that are in force then."""
    await agent.override(
        Override(OverrideKind.GRANT, "ann", "x", 1_161_000, 1_200_000, Amounts(tokens=100))
    )
    await worked.written()
    with connected(worked) as ledger:
        used = cumulative_usage(ledger, worked.tenant, "T")
        assert used[Dimension.TOKENS] == 13_001
        assert used[Dimension.CALLS] == 4
        status = budget_status(ledger, worked.tenant, "T", 1_199_999)
        assert status is not None
        tokens = status.standings[Dimension.TOKENS]
        assert (tokens.used, tokens.limit, tokens.granted, tokens.line) == (
            13_001,
            23_400,
            100,
            28_180,
        )
        assert status.status is BreachStatus.WITHIN
        assert status.standings[Dimension.NANO_USD].status is None
        later = budget_status(ledger, worked.tenant, "T", 1_200_000)
        assert later is not None
        assert later.standings[Dimension.TOKENS].granted == 0
        assert budget_status(ledger, worked.tenant, "unknown", 0) is None
        (override,) = overrides_of(ledger, worked.tenant, "T")
        (entry,) = audit_entries(ledger, worked.tenant, limit=10)
        assert override["number"] == entry["number"]
        assert audit_entries(ledger, worked.tenant, limit=10, below_number=entry["number"]) == []


async def test_breaches_by_task_and_effect(worked: Desk, agent: Agent) -> None:
    """Each line once, however often it is met."""
    await call(agent, "IMPLEMENT", 40_000, ms=1)
    for _ in range(3):
        await agent.reserve("VERIFY")
    await worked.written()
    with connected(worked) as ledger:
        assert len(find_breaches(ledger, worked.tenant, "T", "trip")) == 1
        assert len(find_breaches(ledger, worked.tenant, effect="refuse")) == 1
        assert find_breaches(ledger, worked.tenant, "U") == []
        assert usage_of_calls(ledger, worked.tenant).refused == 3
