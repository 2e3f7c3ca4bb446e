"""How many tasks a gateway key may begin."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from gateway.core.acts import Act, Verb
from gateway.core.keys import TaskCaps
from gateway.ports import TooManyTasks
from gateway.store.connection import StoreConnection
from gateway.store.steering import steer_task
from tests.store.agent import Agent, Look

HOUR_MS = 3_600_000


async def begin(agent: Agent, task: str, caps: TaskCaps) -> None:
    look = agent.store.keys(agent.tenant).key_versions
    await agent.store.connection.execute("HSET", look, "k1", 1)
    other = replace(agent, task=task)
    await other.reserve("PLAN", key_id="k1", key_version=1, task_caps=caps)


async def end(agent: Agent, task: str, verb: Verb) -> None:
    store = agent.store
    act = Act(f"task.{verb.value}", "ann", "done")
    keys = store.keys(agent.tenant)
    await steer_task(store.connection, keys, task, verb, act, now_ms=store.now_ms)


async def test_tasks_within_an_hour_are_capped(agent: Agent, look: Look) -> None:
    """Calls of tasks that are there go on; what is refused leaves nothing."""
    caps = TaskCaps(per_hour=2)
    for task in ("A", "B", "A"):
        await begin(agent, task, caps)
    agent.at(1_000_000 + HOUR_MS - 1)
    with pytest.raises(TooManyTasks, match="k1 has begun 2 tasks within an hour") as raised:
        await begin(agent, "C", caps)
    assert raised.value.code == "velocity_exceeded"
    assert look.task("C") == {}
    await end(agent, "A", Verb.COMPLETE)
    agent.at(1_000_000 + HOUR_MS)
    for task in ("C", "D"):
        await begin(agent, task, caps)
    kept = look.client.zrange(look.keys.begun("k1"), 0, -1)
    assert kept == ["B", "C", "D"]  # B is open


@pytest.mark.parametrize("verb", [Verb.COMPLETE, Verb.KILL])
async def test_open_tasks_are_capped(agent: Agent, verb: Verb) -> None:
    """One that ended makes room, at once; other keys have theirs."""
    caps = TaskCaps(open=2)
    await begin(agent, "A", caps)
    await begin(agent, "B", caps)
    with pytest.raises(TooManyTasks, match="2 open tasks") as raised:
        await begin(agent, "C", caps)
    assert raised.value.code == "spend_limit_exceeded"
    await end(agent, "A", verb)
    await begin(agent, "C", caps)


async def test_many_at_once_begin_no_more_than_they_may(agent: Agent) -> None:
    caps = TaskCaps(per_hour=3, open=5)
    begun = await asyncio.gather(
        *(begin(agent, f"T{number}", caps) for number in range(8)), return_exceptions=True
    )
    assert sum(isinstance(each, TooManyTasks) for each in begun) == 5


async def test_tasks_that_began_since_the_set_was_read_are_open(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another gateway's do: the cap holds though the script is not told where they are."""
    await begin(agent, "A", TaskCaps(open=2))
    execute = StoreConnection.execute

    async def late(self: StoreConnection, *args: Any) -> Any:
        return [] if args[0] == "ZRANGE" else await execute(self, *args)

    monkeypatch.setattr(StoreConnection, "execute", late)
    await begin(agent, "B", TaskCaps(open=2))
    with pytest.raises(TooManyTasks, match="2 open tasks"):
        await begin(agent, "C", TaskCaps(open=2))


async def test_every_task_that_is_looked_at_is_among_the_keys(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a script must on a cluster."""
    run, told = StoreConnection.run, list[list[Any]]()

    async def kept(self: StoreConnection, script: Any, keys: Any, args: Any) -> Any:
        if script.name == "claim_task":
            told.append(list(keys))
        return await run(self, script, keys, args)

    monkeypatch.setattr(StoreConnection, "run", kept)
    for task in ("A", "B", "C"):
        await begin(agent, task, TaskCaps(open=5))
    names = agent.store.keys(agent.tenant)
    assert [keys[2:] for keys in told] == [
        [],
        [names.task("A")],
        [names.task("A"), names.task("B")],
    ]
