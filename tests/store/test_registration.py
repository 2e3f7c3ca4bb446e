"""Registering a task: once, for good; blocked while it is malformed."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import msgspec

from gateway.core.acts import Act, TaskState, Verb
from gateway.core.budget import (
    Amounts,
    TaskBudgetOverrides,
    TaskLimits,
    TaskProfile,
    task_limits,
)
from gateway.core.overrides import Override, OverrideKind
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.ports import StaleFacts, TaskFacts
from gateway.store.registration import Registered, Registration, facts_of, register_task
from gateway.store.steering import Steered
from tests.store.agent import FACTS, LIMITS, Agent, Look, budgets
from tests.store.test_steering import steer

LARGE = TaskFacts(Complexity.LARGE, ImportanceTier.HIGH)
OWN = TaskBudgetOverrides({WorkPhase.THINK: Amounts(tokens=10)}, Decimal("2"))
OF_LARGE = task_limits(budgets(), TaskProfile(LARGE.complexity, LARGE.importance, OWN))


async def register(
    agent: Agent,
    digest: str = "d1",
    facts: TaskFacts = LARGE,
    limits: TaskLimits = OF_LARGE,
    task: str = "T",
) -> Registered:
    store = agent.store
    what = Registration(task, facts, limits, digest, Act("task.register", "ada", ""))
    return await register_task(
        store.connection, store.keys(agent.tenant), what, now_ms=store.now_ms
    )


def told(look: Look) -> list[Any]:
    """The kinds of what the ledger was told, with the state of acts."""
    entries = [fields["e"].split() for _, fields in look.client.xrange(look.keys.ledger)]
    return [(words[0], words[-1]) if words[0] == "act" else words[0] for words in entries]


async def test_it_makes_the_snapshot(agent: Agent, look: Look) -> None:
    """The first call finds it, whatever its own tags say."""
    assert await register(agent) is Registered.CREATED
    fields = look.task()
    assert fields["facts"] == "Large|high||1000,1000,1000,1000"
    assert (fields["THINK.tokens.L"], fields["PLAN.tokens.L"]) == ("10", "10800")
    assert look.client.zscore(look.keys.tasks, "T") == 1_000_000
    assert told(look) == ["task", ("act", "open")]
    try:
        await agent.call("PLAN")
    except StaleFacts:
        agent.facts = LARGE
    receipt = await agent.call("PLAN")
    assert receipt.scopes[-1].balances
    assert look.task()["THINK.tokens.L"] == "10"
    names = agent.store.keys(agent.tenant)
    assert await facts_of(agent.store.connection, names, "T") == LARGE
    assert await facts_of(agent.store.connection, names, "nobody") is None


async def test_again_with_the_same_or_other_content(agent: Agent, look: Look) -> None:
    """Nothing changes and nothing is told; usage does not matter."""
    await register(agent)
    agent.facts = LARGE
    await agent.call("PLAN", tokens=5)
    before = look.task()
    assert await register(agent) is Registered.SAME
    assert await register(agent, "d2") is Registered.CONFLICT
    assert look.task() == before


async def test_a_task_that_its_first_call_has_created(agent: Agent) -> None:
    """It is the same if its snapshot is."""
    await agent.call("PLAN", tokens=5)
    assert await register(agent, facts=FACTS, limits=LIMITS) is Registered.SAME
    assert await register(agent, facts=LARGE) is Registered.CONFLICT
    other = replace(LIMITS, config_hash="another")
    assert await register(agent, facts=FACTS, limits=other) is Registered.CONFLICT


async def test_EC17_a_malformed_one_blocks_the_task(agent: Agent, look: Look) -> None:
    """Until a correct one comes; what the ledger was told of the task then takes another's place."""
    assert await register(agent, "", FACTS, LIMITS) is Registered.BLOCKED
    assert await register(agent, "", FACTS, LIMITS) is Registered.BLOCKED
    assert (await agent.call("PLAN")).stop_code == "task_blocked"
    assert told(look) == ["task", ("act", "blocked"), "refused"]
    assert await register(agent) is Registered.UNBLOCKED
    fields = look.task()
    assert ("state" in fields, fields["version"], fields["refused"]) == (False, "1", "1")
    assert fields["THINK.tokens.L"] == "10"
    assert told(look)[3:] == ["task", ("act", "open")]
    agent.facts = LARGE
    assert (await agent.call("PLAN")).verdict.value == "held"
    assert await register(agent) is Registered.SAME
    assert msgspec.json.decode(fields["snapshot"], type=TaskLimits) == OF_LARGE


async def test_EC17_a_malformed_one_blocks_a_task_at_work(agent: Agent, look: Look) -> None:
    """Until it is registered as what it is; its snapshot, and what it was before, stay."""
    await agent.call("PLAN", tokens=5)
    await steer(agent, Verb.COMPLETE)
    before = look.task()
    agent.at(1_007_000)
    assert await register(agent, "") is Registered.BLOCKED
    assert await register(agent, "") is Registered.BLOCKED
    assert look.task() == before | {
        **{"state": "blocked", "before_block": "completed", "state_ms": "1007000"}
    }
    assert told(look)[-1:] == [("act", "blocked")]
    assert (await agent.call("PLAN")).stop_code == "task_blocked"
    assert await register(agent, "d2") is Registered.CONFLICT
    assert look.task()["state"] == "blocked"
    assert await register(agent, facts=FACTS, limits=LIMITS) is Registered.UNBLOCKED
    assert told(look)[-1:] == [("act", "completed")]
    assert look.task() == before | {"state_ms": "1007000", "refused": "1"}
    assert await register(agent, facts=FACTS, limits=LIMITS) is Registered.SAME
    assert (await agent.call("PLAN")).verdict.value == "held"


async def test_EC17_a_registered_task_is_blocked_too(agent: Agent, look: Look) -> None:
    """And freed by what it was registered with."""
    await register(agent)
    assert await register(agent, "") is Registered.BLOCKED
    assert await register(agent) is Registered.UNBLOCKED
    assert {"state", "before_block"}.isdisjoint(look.task())


async def test_EC17_an_operator_frees_a_task_at_work(agent: Agent, look: Look) -> None:
    """By a resume; one that was blocked before it was anything waits for its registration."""
    await agent.call("PLAN", tokens=5)
    await register(agent, "")
    assert await steer(agent, Verb.RESUME) == Steered(TaskState.OPEN, changed=True)
    assert {"state", "before_block"}.isdisjoint(look.task())
    assert (await agent.call("PLAN")).verdict.value == "held"
    await register(agent, "", task="new")
    assert await steer(agent, Verb.RESUME, "new") == Steered(TaskState.BLOCKED, changed=False)


async def test_EC17_a_killed_task_is_blocked_behind_its_kill(agent: Agent, look: Look) -> None:
    """It stays killed; a resume ends the kill, and another one the block."""
    await agent.call("PLAN", tokens=5)
    await steer(agent, Verb.COMPLETE)
    await steer(agent, Verb.KILL)
    assert await register(agent, "") is Registered.BLOCKED
    assert told(look)[-1:] == [("act", "killed")]
    assert (await agent.call("PLAN")).stop_code == "task_killed"
    assert await register(agent, facts=FACTS, limits=LIMITS) is Registered.UNBLOCKED
    assert await register(agent, "") is Registered.BLOCKED
    for state in (TaskState.BLOCKED, TaskState.COMPLETED):
        assert await steer(agent, Verb.RESUME) == Steered(state, changed=True)


async def test_EC17_a_task_that_was_killed_while_it_was_blocked(agent: Agent, look: Look) -> None:
    """A registration ends the block, not the kill."""
    await register(agent, "", FACTS, LIMITS)
    await steer(agent, Verb.KILL)
    assert await register(agent) is Registered.UNBLOCKED
    assert look.task()["state"] == "killed"
    assert await steer(agent, Verb.RESUME) == Steered(TaskState.OPEN, changed=True)
    assert look.task()["THINK.tokens.L"] == "10"


async def test_overrides_of_a_blocked_task_stay(agent: Agent, look: Look) -> None:
    """They are laid over the limits that it is registered with."""
    await register(agent, "", FACTS, LIMITS)
    grant = Override(OverrideKind.GRANT, "ada", "x", 1_000_000, amounts=Amounts(tokens=77))
    await agent.override(grant)
    await register(agent)
    agent.facts = LARGE
    receipt = await agent.call("PLAN")
    assert receipt.verdict.value == "held"
    assert look.task()["tokens.G"] == "77"
    assert look.task()["THINK.tokens.L"] == "10"
