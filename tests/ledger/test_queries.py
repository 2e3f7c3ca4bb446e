"""Each question has one answer, the same on both databases."""

from sqlalchemy import Connection

from gateway.core.budget import Amounts, BreachStatus, Dimension
from gateway.core.overrides import Override, OverrideKind
from gateway.ledger.pages import FollowedLedger, find_page
from gateway.ledger.queries import (
    CallFilter,
    budget_status,
    cumulative_usage,
    find_breaches,
    find_calls,
    overrides_of,
    usage_of_calls,
)
from gateway.ledger.schema import BREACHES
from tests.ledger.desk import Desk, call
from tests.store.agent import Agent


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
        (entry,) = find_page(ledger, "audit", worked.tenant, {}, None, 10)
        assert override["number"] == entry["number"]
        assert find_page(ledger, "audit", worked.tenant, {}, entry["number"], 10) == []


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


async def test_whoever_follows_gets_all_rows_once(worked: Desk, agent: Agent) -> None:
    """In the order of their acts; a refusal and its trip are of one act, and on one page."""
    await call(agent, "IMPLEMENT", 40_000, ms=1)
    await agent.reserve("VERIFY")
    await worked.written()
    follower = FollowedLedger(worked.url)
    last = follower.last_number("breaches", worked.tenant)
    found, above, pages = [], 0, 0
    while rows := follower.read_on("breaches", worked.tenant, above, 1):
        found += [(row["number"], row["effect"]) for row in rows]
        above, pages = rows[-1]["number"], pages + 1
    follower.close()
    assert above == last
    assert found == sorted(found)
    assert {effect for number, effect in found if number == last} == {"refuse", "trip"}
    assert len(found) == len(worked.rows(BREACHES)) > pages
