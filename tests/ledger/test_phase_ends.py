"""Every execution's begin and end, and every task's end, is told once (MET-1, MET-3, SL-11)."""

from collections.abc import Iterator
from typing import Any, Literal

import pytest
from sqlalchemy import delete, update

from gateway.core.acts import Act, Verb
from gateway.core.phases import WorkPhase
from gateway.dispatch.phase_watch import PhaseWatch, WatchRules
from gateway.ledger.schema import CALLS, PHASE_EXECUTIONS
from gateway.store.generations import reopen_task
from gateway.store.limits import server_ms
from gateway.store.phases import mark_phase
from gateway.store.steering import steer_task
from gateway.telemetry.budgets import BudgetTelemetry
from gateway.telemetry.counters import Counters
from tests.ledger.desk import Desk, call
from tests.store.agent import Agent, settlement


class Watched:
    """A watch over a desk's ledger, and the spans that it gave away."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.counters = Counters()
        self.spans: list[tuple[Any, ...]] = []
        self.may_tell = True
        self.watch = PhaseWatch(
            WatchRules((desk.tenant,)),
            (desk.engine, desk.store),
            BudgetTelemetry(self.counters),
            lambda: self.may_tell,
            desk.note,
            self,  # type: ignore[arg-type]
        )

    def add_phase(self, *told: Any) -> None:
        self.spans.append(told)

    add_task = add_phase

    async def told(self, name: str) -> list[dict[str, Any]]:
        """What is told of under a name by a new look."""
        before = len(self.desk.said(name))
        await self.desk.written()
        await self.watch.look()
        assert self.desk.said("phase_watch_failed") == []
        return self.desk.said(name)[before:]

    async def ended(self) -> list[tuple[str, int]]:
        return [(one["phase"], one["execution"]) for one in await self.told("phase_ended")]


@pytest.fixture
def watched(desk: Desk) -> Iterator[Watched]:
    watched = Watched(desk)
    yield watched
    desk.engine.dispose()


async def complete(agent: Agent, desk: Desk) -> None:
    act = Act("task.complete", "ann", "done")
    now_ms = agent.store.now_ms
    await steer_task(desk.store, desk.keys, agent.task, Verb.COMPLETE, act, now_ms=now_ms)


async def test_SL11_a_start_tells_the_limits_and_an_end_what_was_used(
    agent: Agent, desk: Desk, watched: Watched
) -> None:
    """The end comes once another phase has begun; neither is told again."""
    await call(agent, "PLAN", 2_500, ms=1_000)
    [started] = await watched.told("phase_started")
    assert started == {
        "level": "info",
        "task": "T",
        "phase": "PLAN",
        "execution": 1,
        "tokens_limit": 2_400,
        "latency_limit_ms": 60_000,
        "nano_usd_limit": None,
    }
    assert desk.said("phase_ended") == []
    await call(agent, "THINK", 100, ms=1_000)
    [ended] = await watched.told("phase_ended")
    assert ended == {
        "level": "info",
        "execution": 1,
        "task": "T",
        "phase": "PLAN",
        "tokens": 2_500,
        "tokens_limit": 2_400,
        "latency_ms": 1_000,
        "latency_limit_ms": 60_000,
        "breach_status": "warning",
    }
    labels = ("PLAN", "Medium", "medium", "warning")
    assert list(watched.counters.of("autopilot_phase_tokens_used_total")) == [(labels, 2_500)]
    [(tenant, facts, times_ms, execution)] = watched.spans
    assert (tenant, facts["phase"], execution) == (desk.tenant, "PLAN", 1)
    assert times_ms == (1_000_000, 1_001_000)
    assert await watched.ended() == []
    assert len(desk.said("phase_started")) == 2


async def test_MET3_all_executions_are_told_when_their_task_ends(
    agent: Agent, desk: Desk, watched: Watched
) -> None:
    """Backtracking is an execution of its own; the last phase ends with the task."""
    for phase in ("PLAN", "VERIFY", "PLAN", "MONITOR"):
        await call(agent, phase, 1_000, ms=1_000)
        agent.at(int(agent.store.now_ms) + 100_000)
    await complete(agent, desk)
    found = await watched.ended()
    assert sorted(found) == [("MONITOR", 1), ("PLAN", 1), ("PLAN", 2), ("VERIFY", 1)]
    [task] = desk.said("task_ended")
    assert (task["tokens"], task["latency_ms"], task["budget_status"]) == (4_000, 4_000, "within")
    assert watched.spans[-1][2] == (1_000_000, 1_404_000)
    labels = ("Medium", "medium", "within")
    assert list(watched.counters.of("autopilot_task_tokens_total")) == [(labels, 4_000)]
    assert await watched.told("task_ended") == []


async def test_an_execution_with_an_open_call_goes_on(
    agent: Agent, desk: Desk, watched: Watched
) -> None:
    """What comes late belongs to the execution that admitted it."""
    await call(agent, "PLAN", 1_000, ms=1_000)
    plan, _ = await agent.reserve("PLAN")
    await call(agent, "THINK", 100, ms=1_000)
    assert await watched.ended() == []
    await agent.store.settle(settlement(plan, 700))
    [ended] = await watched.told("phase_ended")
    assert ended["tokens"] == 1_700


async def test_a_phase_that_somebody_starts_and_ends_without_a_call(
    agent: Agent, desk: Desk, watched: Watched
) -> None:
    """It used nothing, and is told all the same; until its end it is not."""
    await call(agent, "PLAN", 10, ms=10)

    async def mark(what: Literal["start", "end"]) -> None:
        act, now_ms = Act(f"phase.{what}", "ann", "as planned"), agent.store.now_ms
        await mark_phase(desk.store, desk.keys, "T", WorkPhase.REVIEW, what, act, now_ms=now_ms)

    agent.at(2_000_000)
    await mark("start")
    assert await watched.ended() == [("PLAN", 1)]
    await call(agent, "VERIFY", 10, ms=10)
    agent.at(3_000_000)
    assert await watched.ended() == []
    await mark("end")
    assert ("REVIEW", 1) in await watched.ended()
    [review] = [one for one in desk.said("phase_ended") if one["phase"] == "REVIEW"]
    assert (review["tokens"], review["breach_status"]) == (0, "within")


async def test_a_task_that_the_store_has_forgotten(
    agent: Agent, desk: Desk, watched: Watched
) -> None:
    """Then what the ledger knows is all that there will be."""
    await call(agent, "PLAN", 10, ms=10)
    await call(agent, "THINK", 10, ms=10)
    await desk.written()
    await desk.store.execute("DEL", desk.keys.task("T"))
    await watched.watch.look()
    assert [one["phase"] for one in desk.said("phase_ended")] == ["PLAN", "THINK"]


async def test_a_reopened_task_ends_twice(agent: Agent, desk: Desk, watched: Watched) -> None:
    """Each generation is told with its own sums."""
    await call(agent, "PLAN", 40_000, ms=10)
    await complete(agent, desk)
    [first] = await watched.told("task_ended")
    assert (first["tokens"], first["budget_status"]) == (40_000, "exceeded")
    act = Act("task.reopen", "ann", "again")
    await reopen_task(desk.store, desk.keys, "T", act, now_ms=agent.store.now_ms)
    await call(agent, "PLAN", 50, ms=10)
    await complete(agent, desk)
    [second] = await watched.told("task_ended")
    assert (second["tokens"], second["budget_status"]) == (50, "within")


async def test_only_who_holds_the_ledger_tells(agent: Agent, desk: Desk, watched: Watched) -> None:
    watched.may_tell = False
    await call(agent, "PLAN", 10, ms=10)
    assert await watched.told("phase_started") == []
    watched.may_tell = True
    assert len(await watched.told("phase_started")) == 1


async def test_what_fails_is_told_the_next_time(
    agent: Agent, desk: Desk, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the watch is an event, and ends nothing."""
    await call(agent, "PLAN", 10, ms=10)
    await desk.written()
    with monkeypatch.context() as patch:
        patch.setattr("gateway.dispatch.phase_watch.take_begins", None)
        await watched.watch.look()
    assert "TypeError" in desk.said("phase_watch_failed")[0]["error"]
    await watched.watch.look()
    assert len(desk.said("phase_started")) == 1


async def test_what_was_there_before_is_not_told(
    agent: Agent, desk: Desk, watched: Watched
) -> None:
    """As migration 0007 marks it."""
    await call(agent, "PLAN", 10, ms=10)
    await desk.written()
    with desk.engine.begin() as connection:
        connection.execute(update(PHASE_EXECUTIONS).values(told=2))
    await complete(agent, desk)
    await watched.told("task_ended")
    assert desk.said("phase_started") == []
    assert desk.said("phase_ended") == []


async def test_what_the_ledger_lacks_is_waited_for_and_not_for_ever(
    agent: Agent, desk: Desk, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call of which the entry was lost: after an hour what there is has to do."""
    agent.at(await server_ms(desk.store) - 300_000)
    lost = await call(agent, "PLAN", 500, ms=10)
    await call(agent, "PLAN", 1_000, ms=10)
    await call(agent, "THINK", 10, ms=10)
    await desk.written()
    with desk.engine.begin() as connection:
        connection.execute(delete(CALLS).where(CALLS.c.call_id == lost.call_id))
    assert await watched.ended() == []
    monkeypatch.setattr("gateway.dispatch.phase_watch._LEDGER_LAGS_MS", 200_000)
    [ended] = await watched.told("phase_ended")
    assert (ended["phase"], ended["tokens"]) == ("PLAN", 1_000)
