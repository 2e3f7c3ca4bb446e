"""Tasks listed: newest first, in pages, filtered."""

import pytest
import redis

from gateway.core.budget import Amounts, Dimension
from gateway.core.errors import StoreError
from gateway.core.overrides import Override, OverrideKind
from gateway.store.address import StoreAddress
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys
from gateway.store.task_view import Place, TaskSummary
from gateway.store.tasks import list_tasks, read_task
from tests.store.agent import OBSERVE, Agent

START = 1_000_000
TOKENS = Dimension.TOKENS


async def make_tasks(agent: Agent, *names: str, apart_ms: int = 1) -> None:
    for place, name in enumerate(names):
        agent.at(START + place * apart_ms)
        agent.task = name
        await agent.call("PLAN", 100)


async def pages(agent: Agent, limit: int) -> list[list[str]]:
    """Return the ids of all pages."""
    after: Place | None = None
    found = []
    while True:
        page = await list_tasks(agent.store.connection, TenantKeys(agent.tenant), limit, after)
        found.append([task.id for task in page.tasks])
        after = page.following
        if after is None:
            return found


async def test_no_tasks(agent: Agent) -> None:
    assert await pages(agent, 10) == [[]]


async def test_newest_first_in_pages(agent: Agent) -> None:
    await make_tasks(agent, "A", "B", "C", "D", "E")
    assert await pages(agent, 10) == [["E", "D", "C", "B", "A"]]
    assert await pages(agent, 5) == [["E", "D", "C", "B", "A"]]
    assert await pages(agent, 2) == [["E", "D"], ["C", "B"], ["A"]]
    assert await pages(agent, 1) == [["E"], ["D"], ["C"], ["B"], ["A"]]


async def test_tasks_of_the_same_moment(agent: Agent) -> None:
    """Their ids put them in order, so none is missing and none stands twice."""
    await make_tasks(agent, "b", "A", "c", "a", "T.1", apart_ms=0)
    assert await pages(agent, 2) == [["c", "b"], ["a", "T.1"], ["A"]]


async def test_a_task_that_comes_between_two_pages(agent: Agent) -> None:
    """It belongs to the first page, which is over."""
    await make_tasks(agent, "A", "B", "C")
    keys = TenantKeys(agent.tenant)
    first = await list_tasks(agent.store.connection, keys, 2)
    await make_tasks(agent, "D", apart_ms=100)
    second = await list_tasks(agent.store.connection, keys, 2, first.following)
    assert [task.id for task in (*first.tasks, *second.tasks)] == ["C", "B", "A"]


async def test_a_place_whose_task_is_gone(agent: Agent) -> None:
    """A cursor names a place, not a task."""
    await make_tasks(agent, "A", "B", "C", "D")
    keys = TenantKeys(agent.tenant)
    page = await list_tasks(agent.store.connection, keys, 2, Place(START + 2, "CC"))
    assert [task.id for task in page.tasks] == ["C", "B"]


async def test_a_task_whose_hash_is_gone(agent: Agent, redis_client: redis.Redis) -> None:
    await make_tasks(agent, "A", "B", "C")
    redis_client.delete(TenantKeys(agent.tenant).task("B"))
    assert await pages(agent, 10) == [["C", "A"]]


async def test_a_summary_is_that_of_the_full_view(agent: Agent) -> None:
    """Both ways to read a task agree, while a call is open, too."""
    await agent.spend(31_600, "VERIFY")
    assert (await agent.call("VERIFY")).tripped_now
    await agent.spend(100, "PLAN")
    agent.effects = OBSERVE
    await agent.reserve("PLAN")
    keys = TenantKeys(agent.tenant)
    (listed,) = (await list_tasks(agent.store.connection, keys, 1)).tasks
    alone = (await read_task(agent.store.connection, keys, "T", START)).summary
    assert listed.stop_loss == alone.stop_loss
    assert listed.totals[TOKENS] == alone.totals[TOKENS]
    assert listed.facts == alone.facts


async def test_a_summary_after_an_override_ran_out(agent: Agent, redis_client: redis.Redis) -> None:
    await agent.call("PLAN")
    grant = Override(OverrideKind.GRANT, "ada", "needed", START, 1 << 50, Amounts(5_000))
    await agent.override(grant)
    keys = TenantKeys(agent.tenant)
    redis_client.hset(keys.task("T"), "expires", 1)
    text = redis_client.lindex(keys.overrides("T"), 0)
    redis_client.lset(keys.overrides("T"), 0, text.replace(str(1 << 50), "1"))
    page = await list_tasks(agent.store.connection, keys, 1)
    assert page.tasks[0].totals[TOKENS].granted == 0


async def test_only_wanted_tasks(agent: Agent) -> None:
    """A page is filled with what passes; the last page is known to be the last."""
    await make_tasks(agent, *(f"T-{number}" for number in range(7)))
    keys = TenantKeys(agent.tenant)

    def even(task: TaskSummary) -> bool:
        return int(task.id[2:]) % 2 == 0

    first = await list_tasks(agent.store.connection, keys, 3, wanted=even)
    assert [task.id for task in first.tasks] == ["T-6", "T-4", "T-2"]
    second = await list_tasks(agent.store.connection, keys, 3, first.following, even)
    assert [task.id for task in second.tasks] == ["T-0"]
    assert second.following is None


async def test_a_filter_that_matches_nothing_stops_after_a_while(
    agent: Agent, redis_client: redis.Redis
) -> None:
    """Then the page is empty, but there is a next one."""
    await agent.call("PLAN", 100)
    keys = TenantKeys(agent.tenant)
    template = redis_client.hgetall(keys.task("T"))
    with redis_client.pipeline() as pipe:
        for number in range(1_250):
            pipe.hset(keys.task(f"N-{number}"), mapping=template)
            pipe.zadd(keys.tasks, {f"N-{number}": START + 1 + number})
        pipe.execute()

    def first_one(task: TaskSummary) -> bool:
        return task.id == "T"

    page = await list_tasks(agent.store.connection, keys, 10, wanted=first_one)
    assert page.tasks == ()
    assert page.following == Place(START + 251, "N-250")
    page = await list_tasks(agent.store.connection, keys, 10, page.following, first_one)
    assert [task.id for task in page.tasks] == ["T"]
    assert page.following is None


async def test_no_store() -> None:
    connection = StoreConnection(StoreAddress(path="/nowhere"))
    with pytest.raises(StoreError):
        await list_tasks(connection, TenantKeys("x"), 1)
