"""Which figures are alarming, and which nobody knows."""

from dataclasses import replace

import pytest

from gateway.core.statistics import (
    Blocks,
    CallCounts,
    Savings,
    Statistics,
    TaskCounts,
    Trend,
    TriggerState,
    change_percent,
    false_positive_percent,
    nearest_rank,
    percent,
    return_on_investment,
    saved_nano_usd,
    triggers,
)


def figures_of(since_ms: int = 0, until_ms: int = 1) -> Statistics:
    """Figures of a period in which nothing happened."""
    return Statistics(
        *(since_ms, until_ms, TaskCounts(), CallCounts(0, 0, {}, 0, 0, {}), (), (), ()),
        *(Savings(None, None, None, None, None, None), 0, 0),
    )


NOTHING = figures_of()


def state(figures: Statistics, name: str) -> TriggerState:
    return {trigger.name: trigger.state for trigger in triggers(figures)}[name]


def test_SUC1_nothing_known_is_no_data() -> None:
    found = {trigger.state for trigger in triggers(NOTHING) if trigger.rule != "PM4"}
    assert found == {TriggerState.NO_DATA}


@pytest.mark.parametrize(
    ("counts", "name", "wanted"),
    [
        (TaskCounts(100, within_limit=90), "within_limit", "ok"),
        (TaskCounts(100, within_limit=89), "within_limit", "alert"),
        (TaskCounts(100, stopped=5), "stop_loss", "ok"),
        (TaskCounts(100, stopped=6), "stop_loss", "alert"),
        (TaskCounts(100, stopped=10), "stop_loss_high", "ok"),
        (TaskCounts(100, stopped=11), "stop_loss_high", "alert"),
        (TaskCounts(100, would_refuse=30), "shadow_breaches", "ok"),
        (TaskCounts(100, would_refuse=31), "shadow_breaches", "alert"),
        (TaskCounts(100, importance={"critical": 10}), "critical_tasks", "ok"),
        (TaskCounts(100, importance={"critical": 11}), "critical_tasks", "alert"),
    ],
)
def test_SUC1_RBK1_PM1_PM6_thresholds_of_tasks(counts: TaskCounts, name: str, wanted: str) -> None:
    assert state(replace(NOTHING, tasks=counts), name).value == wanted


@pytest.mark.parametrize(("false", "wanted"), [(5, "ok"), (6, "alert")])
def test_RBK1_more_than_5_percent_of_false_positives(false: int, wanted: str) -> None:
    blocks = (Blocks("low", 60, false, 0, None), Blocks("high", 40, 0, 1, None))
    assert state(replace(NOTHING, blocks=blocks), "false_positives_rollback").value == wanted


def test_PM2_nobody_has_judged() -> None:
    assert false_positive_percent([Blocks("low", 60, 0, 0, None)]) is None


@pytest.mark.parametrize(("change", "wanted"), [(20.0, "ok"), (-20.01, "alert"), (None, "no_data")])
def test_EC23_the_median_moves_by_more_than_20_percent(change: float | None, wanted: str) -> None:
    trends = (Trend("m", "PLAN", 1, 1, change),)
    assert state(replace(NOTHING, trends=trends), "token_trend").value == wanted


def test_PM5_a_change_needs_both_sides() -> None:
    assert change_percent(200.0, 150.0) == -25.0
    assert change_percent(0, 150.0) is change_percent(None, 1.0) is change_percent(3.0, None)
    assert percent(1, 3) == 33.33


@pytest.mark.parametrize(
    ("percentile", "wanted"), [(1, 10), (50, 20), (75, 30), (76, 40), (100, 40)]
)
def test_PM1_percentiles_are_by_nearest_rank(percentile: int, wanted: int) -> None:
    assert nearest_rank([10, 20, 30, 40], percentile) == wanted


DOLLAR = 1_000_000_000
SPARING = replace(
    figures_of(0, 15 * 86_400_000),  # half a month
    tasks=TaskCounts(100),
    calls=CallCounts(10, 0, {}, 800_000, 80 * DOLLAR, {}),
    savings=Savings(10_000.0, 8_000.0, -20.0, None, None, None),
)


def test_PM5_what_was_saved_against_what_it_costs() -> None:
    """100 tasks used 2,000 tokens less each, at $0.0001 a token: $20; half a month cost $5."""
    assert saved_nano_usd(SPARING) == 20 * DOLLAR
    assert return_on_investment(SPARING, 10 * DOLLAR) == 4.0
    dearer = replace(SPARING, savings=replace(SPARING.savings, tokens_per_task=11_000.0))
    assert saved_nano_usd(dearer) == -10 * DOLLAR
    assert return_on_investment(dearer, 10 * DOLLAR) == -2.0


def test_PM5_what_is_not_known_has_no_return() -> None:
    assert return_on_investment(SPARING, None) is None
    assert return_on_investment(SPARING, 0) is None
    for savings in (
        replace(SPARING.savings, tokens_per_task=None),
        replace(SPARING.savings, tokens_per_task_before=None),
    ):
        assert saved_nano_usd(replace(SPARING, savings=savings)) is None
    assert return_on_investment(replace(SPARING, calls=NOTHING.calls), DOLLAR) is None


@pytest.mark.parametrize(
    ("monthly", "goal", "sunset"),
    [(13, "ok", "ok"), (14, "alert", "ok"), (20, "alert", "ok"), (21, "alert", "alert")],
)
def test_PM5_goal_and_sunset(monthly: int, goal: str, sunset: str) -> None:
    found = {one.name: one.state.value for one in triggers(SPARING, monthly * DOLLAR)}
    assert found["return_on_investment"] == goal
    assert found["return_on_investment_sunset"] == sunset
