"""A store that lost its data gets it back; totals that agree are left alone."""

import asyncio
from pathlib import Path

import pytest

from gateway.core.acts import Act, Verb
from gateway.core.budget import Amounts
from gateway.core.overrides import Override, OverrideKind
from gateway.ledger.schema import AUDIT
from gateway.ledger.verify import Difference
from gateway.store.connection import StoreConnection
from gateway.store.redis_store import RedisStore
from gateway.store.steering import steer_task
from tests.ledger.desk import Desk
from tests.store.agent import FACTS, STRICT, Agent, settlement

NEVER_BACK = {"expires", "inflight", "since", "version"}


@pytest.fixture
def desk(connection: StoreConnection, tenant: str, tmp_path: Path) -> Desk:
    """A ledger for the tenant."""
    return Desk(tenant, connection, f"sqlite:///{tmp_path / 'ledger.db'}")


@pytest.fixture
def agent(store: RedisStore, tenant: str) -> Agent:
    """An agent working on task T; the time is 1,000,000."""
    made = Agent(store, tenant)
    made.at(1_000_000)
    return made


async def hash_of(desk: Desk, task: str = "T") -> dict[str, str]:
    """A task's hash, but for what is of open calls; a zero counts as nothing."""
    raw = await desk.store.execute("HGETALL", desk.keys.task(task))
    fields = dict(zip(raw[::2], raw[1::2], strict=True))
    return {
        name: value
        for name, value in fields.items()
        if value != "0"
        and not name.endswith((".H", "inflight", "since", "last", "ended"))
        and name not in NEVER_BACK
    }


async def a_life(agent: Agent) -> None:
    """Calls in two phases, a child's among them, an override, a trip, an expired call."""
    await agent.call("PLAN")
    agent.at(1_001_000)
    plan, _ = await agent.reserve("IMPLEMENT")
    agent.at(1_003_000)
    await agent.store.settle(settlement(plan, 20_000, 77))
    child = Agent(
        agent.store, agent.tenant, "C", type(FACTS)(FACTS.complexity, FACTS.importance, ("T",))
    )
    await child.call("PLAN", tokens=100)
    await agent.call("VERIFY")  # refused: tripped
    await agent.override(
        Override(OverrideKind.GRANT, "ann", "x", 1_003_000, amounts=Amounts(latency_ms=1))
    )
    await agent.store.reserve(agent.plan("PLAN", effects=STRICT))
    agent.at(1_050_000)


async def test_EC15_everything_lost_is_given_back(agent: Agent, desk: Desk) -> None:
    """Totals, phases, executions, snapshot, limits, overrides, trip: field by field."""
    await a_life(agent)
    await agent.store.expire_due(desk.tenant)
    await desk.written()
    before = await hash_of(desk), await hash_of(desk, "C")
    overrides = await desk.store.execute("LRANGE", desk.keys.overrides("T"), 0, -1)
    assert before[0]["trip"] == "tokens"
    await desk.flush()
    lost = (await desk.verify()).differences
    assert Difference("C", "calls.S", 0, 1) in lost
    rebuilt = await desk.rebuild()
    assert (rebuilt.tasks, rebuilt.restored) == (2, 2)
    assert await hash_of(desk) == before[0]
    assert await hash_of(desk, "C") == before[1]
    assert await desk.store.execute("LRANGE", desk.keys.overrides("T"), 0, -1) == overrides
    assert await desk.store.execute("ZSCORE", desk.keys.tasks, "T") is not None
    assert (await desk.verify()).differences == ()
    assert (await desk.rebuild()).restored == 0


@pytest.mark.parametrize(
    ("verbs", "state"),
    [((Verb.KILL,), "killed"), ((Verb.COMPLETE,), "completed"), ((Verb.KILL, Verb.RESUME), None)],
)
async def test_a_kill_outlasts_the_loss(
    agent: Agent, desk: Desk, verbs: tuple[Verb, ...], state: str | None
) -> None:
    """Who did it and why is in the audit; the state is that of the last act."""
    await agent.call("PLAN")
    for verb in verbs:
        act = Act(f"task.{verb.value}", "ann", "a reason", {"detail": "x"})
        await steer_task(desk.store, desk.keys, "T", verb, act, now_ms="1000000")
    await desk.written()
    rows = desk.rows(AUDIT)
    assert [(row["action"], row["actor"], row["reason"], row["subject"]) for row in rows] == [
        (f"task.{verb.value}", "ann", "a reason", "T") for verb in verbs
    ]
    assert '"detail":"x"' in rows[-1]["details"]
    await desk.flush()
    await desk.rebuild()
    assert (await hash_of(desk)).get("state") == state


async def test_calls_meanwhile_are_counted_once(agent: Agent, desk: Desk) -> None:
    """What was charged between the loss and the rebuild stays, with what was lost added."""
    await agent.call("PLAN", tokens=100)
    open_call, _ = await agent.reserve("PLAN")
    await desk.written()
    await desk.flush()
    await agent.call("PLAN", tokens=10)
    await agent.store.settle(settlement(open_call, 1))
    await desk.written()
    await desk.rebuild()
    assert (await hash_of(desk))["tokens.S"] == "111"
    assert (await desk.verify()).differences == ()


async def test_what_comes_late_is_charged_once(agent: Agent, desk: Desk) -> None:
    """Tombstones are given back too: a settlement that is repeated after the loss does nothing;
    one of a call that had expired corrects its charge.
    """
    settled, _ = await agent.reserve("PLAN")
    await agent.store.settle(settlement(settled, 100))
    expired, receipt = await agent.reserve("PLAN")
    agent.at(1_040_000)
    await agent.store.expire_due(desk.tenant)
    await desk.written()
    await desk.flush()
    await desk.rebuild()
    assert (await hash_of(desk))["tokens.S"] == str(100 + receipt.held_tokens)
    assert (await agent.store.settle(settlement(settled, 100))).duplicate
    await agent.store.settle(settlement(expired, 7))
    await desk.written()
    assert (await hash_of(desk))["tokens.S"] == "107"
    assert (await desk.verify()).differences == ()


async def test_a_rebuild_never_takes_away(agent: Agent, desk: Desk) -> None:
    """What the store has and the ledger lacks is reported, and left."""
    await agent.call("PLAN", tokens=100)
    await desk.written()
    await desk.store.execute("HINCRBY", desk.keys.task("T"), "tokens.S", 5)
    await desk.rebuild()
    (difference,) = (await desk.verify("T")).differences
    assert difference == Difference("T", "tokens.S", 105, 100)


async def test_the_writer_rebuilds_by_itself(agent: Agent, desk: Desk) -> None:
    """When the epoch is another one than the ledger's; also if it was lost while nobody looked."""
    await agent.call("PLAN", tokens=100)
    await desk.written()
    await desk.flush()
    async with desk.writing():
        async with asyncio.timeout(30):
            while not desk.said("ledger_rebuilt"):
                await asyncio.sleep(0.01)
        await desk.flush()  # and again, with the group that the writer reads from
        await agent.call("PLAN", tokens=10)
        async with asyncio.timeout(30):
            while len(desk.said("ledger_rebuilt")) < 2:
                await asyncio.sleep(0.01)
        await desk.until_written()
    assert (await hash_of(desk))["tokens.S"] == "110"
    assert (await desk.verify()).differences == ()


async def test_a_rebuild_by_hand(agent: Agent, desk: Desk) -> None:
    """With `rebuild: manual` the writer says what to do, and goes on writing."""
    await agent.call("PLAN", tokens=100)
    await desk.written()
    await desk.flush()
    await agent.call("PLAN", tokens=10)
    await desk.written(rebuilds=False)
    (said,) = desk.said("ledger_rebuild_needed")
    assert "tollgate ledger rebuild" in said["remedy"]
    assert (await hash_of(desk))["tokens.S"] == "10"
    await desk.rebuild()
    assert (await hash_of(desk))["tokens.S"] == "110"


async def test_a_trip_that_somebody_ended_does_not_come_back(agent: Agent, desk: Desk) -> None:
    """A resume is an answer to a trip; the count of episodes stays."""
    await agent.spend(31_600)
    await agent.reserve("VERIFY")
    await agent.override(Override(OverrideKind.RESUME, "ann", "let it run", 1_000_000))
    await desk.written()
    await desk.flush()
    await desk.rebuild()
    fields = await hash_of(desk)
    assert "trip" not in fields
    assert (fields["episode"], fields["tokens.S"]) == ("1", "31600")


async def test_an_override_that_was_made_meanwhile_is_kept(agent: Agent, desk: Desk) -> None:
    """Both are in force afterwards: that of before the loss, and that of between."""
    await agent.call("PLAN", tokens=100)
    await agent.override(
        Override(OverrideKind.GRANT, "ann", "x", 1_000_000, amounts=Amounts(tokens=5))
    )
    await desk.written()
    await desk.flush()
    await agent.call("PLAN", tokens=10)
    await agent.override(
        Override(OverrideKind.GRANT, "bob", "y", 1_000_001, amounts=Amounts(tokens=7))
    )
    await desk.written()
    await desk.rebuild()
    fields = await hash_of(desk)
    assert (fields["tokens.G"], fields["tokens.S"]) == ("12", "110")
    assert (await agent.call("PLAN", tokens=1)).verdict.value == "held"
