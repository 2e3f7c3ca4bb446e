"""A store that lost its data gets it back; totals that agree are left alone."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.core.acts import Act, TaskState, Verb
from gateway.core.budget import Amounts, Dimension
from gateway.core.overrides import Override, OverrideKind
from gateway.core.phases import WorkPhase
from gateway.ledger.schema import AUDIT, TASKS
from gateway.ledger.verify import Difference
from gateway.store.connection import StoreConnection
from gateway.store.redis_store import RedisStore
from gateway.store.registration import Registered
from gateway.store.steering import steer_task
from tests.ledger.desk import Desk
from tests.store.agent import FACTS, LIMITS, STRICT, Agent, settlement
from tests.store.test_phases import mark
from tests.store.test_registration import register
from tests.store.test_steering import steer

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
    return {
        name: value
        for name, value in (await _stored(desk, task)).items()
        if value != "0"
        and not name.endswith((".H", "inflight", "since", "last", "ended"))
        and name not in NEVER_BACK
    }


async def whole_hash(desk: Desk, task: str = "T") -> dict[str, str]:
    """A task's hash, but for what is of open calls and what counts changes of limits."""
    return {
        name: value
        for name, value in (await _stored(desk, task)).items()
        if value != "0" and not name.endswith((".H", "inflight", "since")) and name != "version"
    }


async def _stored(desk: Desk, task: str) -> dict[str, str]:
    raw = await desk.store.execute("HGETALL", desk.keys.task(task))
    return dict(zip(raw[::2], raw[1::2], strict=True))


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


async def worked_by_word(agent: Agent) -> None:
    """Phases begun and ended by word, held to wall time: one of them without a call."""
    await agent.call("SPEC", tokens=1)
    agent.at(1_004_000)
    await mark(agent, "start", "SPEC")
    agent.at(1_010_000)
    await mark(agent, "end", "SPEC")
    await mark(agent, "start", "REVIEW")
    await agent.call("REVIEW", tokens=25_738)
    await mark(agent, "end", "REVIEW")
    agent.at(1_011_000)
    assert (await agent.call("PR", tokens=0)).scopes[0].exempt
    await mark(agent, "start", "PLAN")
    agent.at(1_012_000)


async def test_EC15_phases_that_were_begun_and_ended_by_word(agent: Agent, desk: Desk) -> None:
    """The current one, what is closed, wall time; and that the task may complete."""
    agent.limits = replace(LIMITS, stop_loss=replace(LIMITS.stop_loss, latency_basis="wall"))
    await worked_by_word(agent)
    await desk.written()
    before = await whole_hash(desk)
    assert before["phase"] == "PLAN"
    assert (before["SPEC.closed"], before["REVIEW.closed"], before["completion"]) == ("1",) * 3
    assert (before["x.SPEC.1.wall_ms"], before["x.SPEC.1.idle_ms"]) == ("6000", "4000")
    assert before["wall"] == before["x.PLAN.1.explicit"] == "1"
    await desk.flush()
    assert (await desk.rebuild()).restored == 1
    assert await whole_hash(desk) == before
    assert (await desk.rebuild()).restored == 0
    await desk.store.execute("DEL", desk.keys.clock)  # it is today by now, and never runs back
    assert (await agent.call("", tokens=1)).phase is WorkPhase.PLAN
    assert (await agent.call("SPEC", tokens=1)).execution == 2
    seen = await agent.store.look(agent.plan("PLAN"))
    assert seen.scopes[-1].balances[Dimension.LATENCY_MS].settled == 1_000


async def test_EC15_what_completion_closed(agent: Agent, desk: Desk) -> None:
    """An execution that came after it is open; an explicit one ended with it."""
    await agent.call("SPEC", tokens=1)
    await mark(agent, "start", "PLAN")
    agent.at(1_010_000)
    await steer(agent, Verb.COMPLETE)
    agent.at(1_020_000)
    await agent.call("SPEC", tokens=1)
    await desk.written()
    before = await whole_hash(desk)
    assert (before["SPEC.exec"], before["SPEC.closed"], before["PLAN.closed"]) == ("2", "1", "1")
    assert before["x.PLAN.1.wall_ms"] == "10000"
    await desk.flush()
    await desk.rebuild()
    assert await whole_hash(desk) == before | {"state": "completed", "state_ms": "1010000"}


async def test_EC17_a_block_outlasts_the_loss(agent: Agent, desk: Desk) -> None:
    """Of a task that was blocked before it was anything, and of one at work; each as it was."""
    names = ("new", "T", "killed", "behind")
    agents = {name: replace(agent, task=name) for name in names}
    for name in ("T", "killed"):
        await agents[name].call("PLAN", tokens=1)
    await steer(agents["T"], Verb.COMPLETE)
    for name in ("killed", "behind"):
        if name == "behind":
            await register(agent, "", FACTS, LIMITS, name)
        await steer(agents[name], Verb.KILL)
    for name in ("new", "T", "killed"):
        await register(agent, "", FACTS, LIMITS, name)
    await desk.written()
    before = {name: await whole_hash(desk, name) for name in names}
    await desk.flush()
    assert (await desk.rebuild()).restored == 4
    for name in names:
        assert await whole_hash(desk, name) == before[name]
    assert (await desk.rebuild()).restored == 0
    stops = {name: (await one.call("PLAN")).stop_code for name, one in agents.items()}
    assert stops == {
        **{"new": "task_blocked", "T": "task_blocked"},
        **{"killed": "task_killed", "behind": "task_killed"},
    }
    assert await register(agent, task="new") is Registered.UNBLOCKED
    assert (await steer(agents["killed"], Verb.RESUME)).state is TaskState.BLOCKED
    assert (await steer(agents["T"], Verb.RESUME)).state is TaskState.COMPLETED


async def test_EC17_a_block_that_ended_stays_ended(agent: Agent, desk: Desk) -> None:
    """The ledger has what was registered at last, in place of what the blocked task had."""
    await register(agent, "", FACTS, LIMITS)
    await desk.written()
    await register(agent)
    await register(agent, "", task="killed")
    await steer(replace(agent, task="killed"), Verb.KILL)
    await register(agent, task="killed")
    await register(agent, "")
    await steer(agent, Verb.RESUME)
    await desk.written()
    await desk.flush()
    await desk.rebuild()
    fields = await hash_of(desk)
    assert {"state", "before_block"}.isdisjoint(fields)
    assert fields["THINK.tokens.L"] == "10"
    assert {"before_kill", "before_block"}.isdisjoint(await hash_of(desk, "killed"))
    assert [(row["task"], row["provisional"]) for row in desk.rows(TASKS, "task")] == [
        *(("T", None), ("killed", None))
    ]


async def test_a_stop_comes_back_where_a_call_has_begun_the_task_anew(
    agent: Agent, desk: Desk
) -> None:
    """Though nothing was spent that could be lacking."""
    await register(agent, facts=FACTS, limits=LIMITS)
    await register(agent, "")
    await desk.written()
    await desk.flush()
    plan, receipt = await agent.reserve("PLAN")
    assert receipt.verdict.value == "held"
    await desk.written(rebuilds=False)
    assert (await desk.rebuild()).restored == 1
    await agent.store.settle(settlement(plan, 1))
    assert (await agent.call("PLAN")).stop_code == "task_blocked"


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
