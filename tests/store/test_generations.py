"""Reopening a completed task, and completing an idle one."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from gateway.core.acts import Act, TaskState, Verb
from gateway.core.budget import Dimension, TaskLimits
from gateway.core.overrides import Override
from gateway.core.phases import WorkPhase
from gateway.store.generations import reopen_task
from gateway.store.idle import IdleTasks
from gateway.store.limits import Check
from gateway.store.reaper import Reaper
from gateway.store.steering import Steered, WrongState, steer_task
from gateway.store.task_view import StopState
from gateway.store.tasks import read_task
from tests.store.agent import LIMITS, LIMITS_WITH_MONEY, STRICT, Agent, Look, settlement
from tests.store.test_phases import mark
from tests.store.test_reaper import Notes

REOPEN = Act("task.reopen", "ada", "reported anew")
DAY_MS = 86_400_000


async def steer(agent: Agent, verb: Verb) -> Steered:
    store = agent.store
    act = Act(f"task.{verb.value}", "ada", "a reason")
    keys = store.keys(agent.tenant)
    return await steer_task(store.connection, keys, agent.task, verb, act, now_ms=store.now_ms)


async def reopen(agent: Agent, check: Check | None = None) -> Steered:
    store = agent.store
    keys, now_ms = store.keys(agent.tenant), store.now_ms
    return await reopen_task(store.connection, keys, agent.task, REOPEN, check=check, now_ms=now_ms)


async def view(agent: Agent) -> Any:
    store = agent.store
    now_ms = int(store.now_ms)
    return await read_task(store.connection, store.keys(agent.tenant), agent.task, now_ms)


async def test_G18_a_new_generation_has_a_whole_budget_and_forgets_nothing(
    agent: Agent, look: Look
) -> None:
    """Also where its trip stood; a call alone gives a completed task nothing (G-18)."""
    agent = replace(agent, limits=LIMITS_WITH_MONEY)
    await agent.call("IMPLEMENT", tokens=30_000, nano_usd=5_000_000)
    assert (await agent.call("VERIFY")).stop_code == "task_budget_exceeded"
    await steer(agent, Verb.COMPLETE)
    assert (await agent.call("VERIFY")).stop_code == "task_budget_exceeded"
    before = await view(agent)
    assert (before.generation, before.summary.stop_loss.state) == (1, StopState.TRIPPED)

    assert await reopen(agent) == Steered(TaskState.REOPENED, changed=True)
    after = await view(agent)
    assert (after.generation, after.summary.stop_loss.state) == (2, StopState.OK)
    for dimension in ("tokens", "latency_ms", "nano_usd"):
        total = next(one for name, one in after.summary.totals.items() if name.value == dimension)
        assert total.remaining == total.limit
    assert look.settled() == 30_000
    (grant,) = after.overrides
    assert (grant.kind.value, grant.approver, grant.reason) == (
        "generation",
        "ada",
        "reported anew",
    )
    assert (grant.amounts.tokens, grant.amounts.nano_usd) == (30_000, 5_000_000)
    assert (await agent.call("VERIFY")).verdict.value == "held"


async def test_G18_a_new_generation_has_whole_phases(agent: Agent, look: Look) -> None:
    """Where phases refuse, one that was used up goes on, as far again and no further."""
    agent = replace(agent, effects=STRICT)
    line = LIMITS.phase_lines[WorkPhase.PLAN][Dimension.TOKENS]
    for _ in range(3):
        assert (await agent.call("PLAN", tokens=line.cumulative)).verdict.value == "held"
        assert (await agent.call("PLAN", tokens=1)).verdict.value == "held"
        assert (await agent.call("PLAN")).stop_code == "phase_budget_exceeded"
        await steer(agent, Verb.COMPLETE)
        await reopen(agent)
    assert look.number("PLAN.tokens.L") == line.limit + 3 * (line.cumulative + 1)


async def test_G18_a_new_generation_needs_a_review_of_its_own(agent: Agent, look: Look) -> None:
    """That the one before it was let through to its end says nothing of this one (SL-9)."""
    await agent.spend(25_000, "IMPLEMENT")
    await agent.call("REVIEW", tokens=739)
    await mark(agent, "end", "REVIEW")
    assert (await agent.call("PR", tokens=5_000)).scopes[0].exempt is True
    await steer(agent, Verb.COMPLETE)
    await reopen(agent)
    assert (await agent.call("PR", tokens=25_000)).scopes[0].exempt is False
    await agent.call("REVIEW", tokens=1)
    await mark(agent, "end", "REVIEW")
    assert (await agent.call("PR", tokens=1)).scopes[0].exempt is True
    assert look.task()["completion"] == "2"


async def test_a_reopening_that_is_kept_from_being_made_changes_nothing(
    agent: Agent, look: Look
) -> None:
    await agent.call("PLAN", tokens=1_000)
    await steer(agent, Verb.COMPLETE)
    before = look.everything()

    def refuse(_: TaskLimits, in_force: Sequence[Override], new: Override) -> None:
        raise ValueError(f"{len(in_force)} {new.amounts.tokens}")

    with pytest.raises(ValueError, match="0 1000"):
        await reopen(agent, check=refuse)
    assert look.everything() == before


async def test_G18_reopened_twice_it_gets_nothing_twice(agent: Agent, look: Look) -> None:
    """An operator who repeats a request that went wrong; a third generation comes after more use."""
    await agent.call("PLAN", tokens=1_000)
    await steer(agent, Verb.COMPLETE)
    assert (await reopen(agent)).changed
    assert await reopen(agent) == Steered(TaskState.REOPENED, changed=False)
    assert (look.number("tokens.G"), look.number("generation")) == (1_000, 2)
    await agent.call("PLAN", tokens=500)
    await steer(agent, Verb.COMPLETE)
    assert (await reopen(agent)).changed
    assert (look.number("tokens.G"), look.number("generation")) == (1_500, 3)


async def test_a_task_that_used_nothing_is_begun_anew_all_the_same(
    agent: Agent, look: Look
) -> None:
    await agent.store.settle(settlement(agent.plan("PLAN"), tokens=0))
    await steer(agent, Verb.COMPLETE)
    assert (await reopen(agent)).changed
    assert look.number("generation") == 2


@pytest.mark.parametrize("verb", [None, Verb.KILL])
async def test_only_what_was_completed_is_reopened(agent: Agent, look: Look, verb: Any) -> None:
    await agent.call("PLAN")
    if verb is not None:
        await steer(agent, verb)
    with pytest.raises(WrongState):
        await reopen(agent)
    assert look.number("tokens.G") == 0


# Idle ---------------------------------------------------------------------------------------------


def states(look: Look, *tasks: str) -> list[str | None]:
    return [look.task(task).get("state") for task in tasks]


async def test_G18_an_idle_task_is_completed_and_goes_on_with_its_next_call(
    agent: Agent, look: Look
) -> None:
    """Not one with an open call, nor one that was called, resumed or killed meanwhile."""
    names = ("IDLE", "OPEN", "CALLED", "RESUMED", "KILLED")
    agents = {name: replace(agent, task=name) for name in names}
    for each in agents.values():
        await each.call("PLAN")
    await agents["OPEN"].reserve("PLAN")
    await steer(agents["KILLED"], Verb.KILL)
    await steer(agents["RESUMED"], Verb.KILL)
    agent.at(1_000_000 + DAY_MS // 2)
    await agents["CALLED"].call("PLAN")
    await steer(agents["RESUMED"], Verb.RESUME)
    agent.at(1_000_000 + DAY_MS)
    notes = Notes()
    reaper = Reaper(agent.store, (agent.tenant,), notes, 1_000, DAY_MS)
    await reaper.complete_idle()
    assert states(look, *names) == ["completed", None, None, None, "killed"]
    assert [(name, fields["task"]) for name, fields in notes.events] == [("task_completed", "IDLE")]
    acts = [
        msgspec.json.decode(fields["d"])
        for _, fields in look.client.xrange(look.keys.ledger)
        if fields["e"].startswith("act ") and "task:IDLE" in fields["e"]
    ]
    assert [(act["action"], act["actor"]) for act in acts] == [("task.complete", "tollgate")]
    assert "86,400,000 ms" in acts[0]["reason"]
    await agents["IDLE"].call("PLAN")
    assert states(look, "IDLE") == ["reopened"]


async def test_many_tasks_are_gone_through_bit_by_bit(agent: Agent, look: Look) -> None:
    for number in range(205):
        await replace(agent, task=f"T{number:03d}").spend(1)
    look.client.zadd(look.keys.tasks, {"GONE": 1})
    agent.at(1_000_000 + DAY_MS)
    idle = IdleTasks(agent.store, agent.tenant, DAY_MS)
    assert len(await idle.complete_some()) == 199  # and one whose hash is gone
    assert len(await idle.complete_some()) == 6
    assert await idle.complete_some() == []
