"""Kill, resume, complete: with the next call, on every gateway, told to the ledger once."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from gateway.core.acts import Act, TaskState, Verb
from gateway.store.limits import UnknownTask
from gateway.store.redis_store import RedisStore
from gateway.store.steering import Steered, WrongState, steer_task
from tests.store.agent import OBSERVE, Agent, Look, settlement


async def steer(agent: Agent, verb: Verb, task: str = "") -> Steered:
    store = agent.store
    return await steer_task(
        *(store.connection, store.keys(agent.tenant), task or agent.task, verb),
        Act(f"task.{verb.value}", "ada", "a reason"),
        now_ms=store.now_ms,
    )


def told(look: Look) -> list[Any]:
    """The acts that the ledger was told of: words, and what they are about."""
    entries = look.client.xrange(look.keys.ledger)
    acts = [fields for _, fields in entries if fields["e"].startswith("act ")]
    return [(fields["e"].split()[2:], msgspec.json.decode(fields["d"])) for fields in acts]


async def test_a_killed_task_is_refused_until_it_is_resumed(agent: Agent, look: Look) -> None:
    """Also where policies only observe; what was spent stays."""
    await agent.call("PLAN")
    assert await steer(agent, Verb.KILL) == Steered(TaskState.KILLED, changed=True)
    agent.effects = OBSERVE
    receipt = await agent.call("PLAN")
    assert (receipt.verdict.value, receipt.stop_code) == ("refused", "task_killed")
    assert look.settled() == 15_800
    assert await steer(agent, Verb.RESUME) == Steered(TaskState.OPEN, changed=True)
    assert (await agent.call("PLAN")).verdict.value == "held"
    assert {"state", "before_kill"}.isdisjoint(look.task())


async def test_a_second_time_changes_and_tells_nothing(agent: Agent, look: Look) -> None:
    await agent.call("PLAN")
    for verb in (Verb.RESUME, Verb.KILL, Verb.KILL, Verb.RESUME, Verb.RESUME):
        await steer(agent, verb)
    ((kill, about), (resume, _)) = told(look)
    assert [words[0] for words in (kill, resume)] == ["task:T", "task:T"]
    assert [words[2] for words in (kill, resume)] == ["killed", "open"]
    assert int(kill[1]) < int(resume[1])
    assert about == {"action": "task.kill", "actor": "ada", "reason": "a reason", "details": {}}


async def test_an_ancestor_that_is_killed_stops_its_children(
    agent: Agent, store: RedisStore
) -> None:
    await Agent(store, agent.tenant, task="up").call("PLAN")
    child = Agent(store, agent.tenant, facts=replace(agent.facts, parents=("up",)))
    child.at(1_000_000)
    await child.call("PLAN")
    await steer(agent, Verb.KILL, "up")
    assert (await child.call("PLAN")).stop_code == "task_killed"


async def test_completing_closes_executions(agent: Agent, look: Look) -> None:
    """A later call counts on, in a new execution, and marks the task as reopened."""
    await agent.call("PLAN")
    late, _ = await agent.reserve("THINK")
    agent.at(1_005_000)
    assert await steer(agent, Verb.COMPLETE) == Steered(TaskState.COMPLETED, changed=True)
    fields = look.task()
    assert (fields["PLAN.closed"], fields["THINK.closed"]) == ("1", "1")
    assert fields["x.PLAN.1.ended"] == "1005000"
    await agent.store.settle(settlement(late, tokens=100))
    assert look.number("x.THINK.1.tokens") == 100
    assert look.task()["state"] == "completed"
    await agent.call("PLAN", tokens=7)
    fields = look.task()
    assert (fields["state"], fields["PLAN.exec"], fields["x.PLAN.2.tokens"]) == (
        "reopened",
        "2",
        "7",
    )
    assert look.settled() == 15_800 + 100 + 7
    assert (await agent.call("PLAN")).execution == 2


async def test_what_is_stopped_cannot_be_completed(agent: Agent, look: Look) -> None:
    await agent.call("PLAN")
    await steer(agent, Verb.KILL)
    with pytest.raises(WrongState, match="task T is killed"):
        await steer(agent, Verb.COMPLETE)
    look.client.hset(look.keys.task("T"), "state", "blocked")
    with pytest.raises(WrongState, match="task T is blocked"):
        await steer(agent, Verb.COMPLETE)
    assert await steer(agent, Verb.RESUME) == Steered(TaskState.BLOCKED, changed=False)
    await steer(agent, Verb.KILL)
    assert await steer(agent, Verb.RESUME) == Steered(TaskState.BLOCKED, changed=True)


async def test_a_completed_task_is_completed_again_after_a_kill(agent: Agent, look: Look) -> None:
    await agent.call("PLAN")
    for verb in (Verb.COMPLETE, Verb.KILL, Verb.RESUME):
        await steer(agent, verb)
    assert look.task()["state"] == "completed"
    assert await steer(agent, Verb.COMPLETE) == Steered(TaskState.COMPLETED, changed=False)


@pytest.mark.parametrize("verb", Verb)
async def test_an_unknown_task(agent: Agent, look: Look, verb: Verb) -> None:
    """Nothing is made of it."""
    with pytest.raises(UnknownTask):
        await steer(agent, verb, "nobody")
    assert look.task("nobody") == {}
