"""Figures of a period, the same on both databases, from calls that a real store decided."""

from gateway.core.acts import Act
from gateway.core.statistics import (
    VERDICT_ACTION,
    VERDICT_SUBJECT,
    Statistics,
    false_positive_percent,
    triggers,
)
from gateway.dispatch.statistics_watch import FigureRules, StatisticsWatch
from gateway.ledger.pages import find_page
from gateway.ledger.statistics import statistics
from gateway.store.notes import note_act
from tests.ledger.desk import Desk, call
from tests.store.agent import Agent

_DAY_MS = 86_400_000


def figures(
    desk: Desk, since_ms: int = 0, until_ms: int = _DAY_MS, *, by_complexity: bool = False
) -> Statistics:
    with desk.connect() as ledger:
        return statistics(ledger, desk.tenant, since_ms, until_ms, by_complexity=by_complexity)


async def judge(desk: Desk, call_id: str, verdict: str) -> None:
    act = Act(VERDICT_ACTION, "ada", "why", {"verdict": verdict})
    await note_act(desk.store, desk.keys, f"{VERDICT_SUBJECT}{call_id}", act)
    await desk.written()


async def test_SUC1_PM2_RBK1_figures_of_a_stopped_task(worked: Desk, agent: Agent) -> None:
    """A task above its limit, stopped, and its block judged twice: the latest verdict holds."""
    before = figures(worked)
    assert (before.tasks.tasks, before.tasks.within_limit, before.tasks.stopped) == (1, 1, 0)
    assert before.calls.sources == {"provider": 3, "estimated": 1, "none": 0}
    assert (before.calls.tokens, before.calls.nano_usd) == (13_001, 26_002)
    await call(agent, "IMPLEMENT", 40_000, ms=1)
    for _ in range(3):
        await agent.reserve("VERIFY")
    await worked.written()
    stopped = figures(worked)
    assert (stopped.tasks.tasks, stopped.tasks.within_limit, stopped.tasks.stopped) == (1, 0, 1)
    assert stopped.tasks.importance == {"medium": 1}
    assert stopped.calls.refused == {"runaway_task": 3}
    assert false_positive_percent(stopped.blocks) is None
    with worked.connect() as ledger:
        rows = find_page(ledger, "breaches", worked.tenant, {"effect": "refuse"}, None, 10)
    assert {row["verdict"] for row in rows} == {None}
    for verdict, share in (("false_positive", 100.0), ("justified", 0.0)):
        await judge(worked, rows[0]["call_id"], verdict)
        (blocks,) = figures(worked).blocks
        assert (blocks.importance, blocks.blocks) == ("medium", 1)
        assert blocks.false_positive_percent == share
        with worked.connect() as ledger:
            (row, *_) = find_page(ledger, "breaches", worked.tenant, {"effect": "trip"}, None, 10)
        assert row["verdict"] == verdict
    states = {trigger.name: trigger.state.value for trigger in triggers(figures(worked))}
    assert states["stop_loss_high"] == "alert"
    assert states["false_positives_rollback"] == "ok"
    assert states["token_trend"] == "no_data"


async def test_SUC1_percentiles_of_executions(worked: Desk) -> None:
    """By nearest rank; what a phase used is summed up by execution."""
    spreads = {spread.phase: spread for spread in figures(worked).spreads}
    assert spreads["THINK"].complexity is None
    used = {"THINK": 9_001}
    assert spreads["THINK"].tokens["p99"] == used["THINK"]
    assert set(spreads["THINK"].tokens) == {"p50", "p75", "p90", "p95", "p99"}
    split = figures(worked, by_complexity=True).spreads
    assert {spread.complexity for spread in split} == {"Medium"}


async def test_EC23_PM5_a_week_against_the_one_before(worked: Desk, agent: Agent) -> None:
    """The median of a model in a phase, tokens a task and latency, a period against another."""
    week_ms = 7 * _DAY_MS
    agent.at(week_ms + 1)
    await call(agent, "THINK", 9_001, ms=100)
    await worked.written()
    now = figures(worked, week_ms, 2 * week_ms)
    (trend,) = [one for one in now.trends if one.model == "m"]
    assert (trend.phase, trend.median_now) == ("THINK", 9_001)
    assert trend.change_percent is not None
    assert {one.name: one.state.value for one in triggers(now)}["token_trend"] == "alert"
    assert now.savings.tokens_per_task_before == 13_001
    assert now.savings.tokens_per_task == 9_001
    assert now.savings.tokens_change_percent == -30.77
    assert now.savings.p95_latency_ms == 100


async def test_PM4_a_task_that_is_stuck_in_a_phase(worked: Desk) -> None:
    """Four hours after its latest phase began, unless it has ended."""
    assert figures(worked, until_ms=2_000_000).stuck_tasks == 0
    assert figures(worked).stuck_tasks == 1


async def test_SUC1_a_period_without_anything(worked: Desk) -> None:
    empty = figures(worked, 5 * _DAY_MS, 6 * _DAY_MS)
    assert (empty.tasks.tasks, empty.calls.calls, empty.spreads, empty.blocks) == (0, 0, [], [])
    assert empty.tasks.percent_of(0) is None


async def test_RBK1_EC23_a_figure_that_crosses_its_threshold_is_told_once(
    agent: Agent, desk: Desk
) -> None:
    """And once more when it is back; only by who holds the ledger, and whatever fails."""
    now_s, holds = [2_000.0], [True]
    rules = FigureRules((desk.tenant,))
    watch = StatisticsWatch(rules, desk.engine, lambda: holds[0], desk.note, lambda: now_s[0])
    await call(agent, "PLAN", 100, ms=10)
    await desk.written()
    await watch.look()
    assert desk.said("statistics_alert") == []
    assert watch.alarming["stop_loss"] is False
    assert "false_positives" not in watch.alarming  # nobody has judged
    await agent.spend(28_081)
    await agent.reserve("VERIFY")
    await desk.written()
    for _ in range(2):
        await watch.look()
    told = {one["trigger"]: one for one in desk.said("statistics_alert")}
    assert {"stop_loss", "stop_loss_high", "within_limit"} <= told.keys()
    assert len(desk.said("statistics_alert")) == len(told)
    assert told["stop_loss"] == {
        "level": "warning",
        "trigger": "stop_loss",
        "rule": "SUC-1",
        "value": 100.0,
        "threshold": 5,
    }
    assert watch.alarming["stop_loss"] is True
    for number in range(40):  # so many good tasks make it a small share
        agent.task = f"G-{number}"
        await call(agent, "PLAN", 10, ms=1)
    await desk.written()
    await watch.look()
    assert "stop_loss" in {one["trigger"] for one in desk.said("statistics_calm")}
    holds[0] = False
    await watch.look()
    assert watch.alarming == {}


async def test_a_watch_that_fails_is_told_and_goes_on(desk: Desk) -> None:
    def no_time() -> float:
        raise OverflowError("no time")

    watch = StatisticsWatch(
        FigureRules((desk.tenant,)), desk.engine, lambda: True, desk.note, no_time
    )
    await watch.look()
    assert desk.said("statistics_watch_failed")[0]["error"] == "OverflowError: no time"
