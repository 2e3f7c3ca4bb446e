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
