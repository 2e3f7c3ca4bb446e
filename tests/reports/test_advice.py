"""What a report advises, case by case (PM7)."""

from typing import Any

import pytest

from gateway.core.budget import Dimension, percent
from gateway.reports.advice import against, compare, find_anomalies, recommend
from gateway.reports.report import Amount, Amounts, Factors, PhaseReport, StopLossReport

FACTORS = Factors(1, 1, "1.0", "1.0", "1.0", "1", absolute=False)
NOTHING = Amount(0)


def amount(used: int, allowed: int | None = 100) -> Amount:
    return Amount(used, allowed, 0, allowed, None if allowed is None else percent(used, allowed))


def phase(name: str, tokens: int, latency_ms: int = 0, status: str = "within") -> PhaseReport:
    return PhaseReport(name, status, 1, amount(tokens), amount(latency_ms), NOTHING, FACTORS)


def totals(latency_ms: int = 0) -> Amounts:
    return Amounts(NOTHING, amount(latency_ms), NOTHING, NOTHING)


@pytest.mark.parametrize(
    ("one", "found"),
    [
        (phase("PLAN", 151), [("tokens", 151)]),
        (phase("PLAN", 150), []),
        (phase("PLAN", 50), []),
        (phase("PLAN", 49), [("tokens", 49)]),
        (phase("PLAN", 60, latency_ms=151), [("latency_ms", 151)]),
        (phase("PLAN", 60, latency_ms=1), []),
        (phase("PLAN", 0, status="not_started"), []),
        (phase("THINK", 10), []),
        (phase("THINK", 200), [("tokens", 200)]),
    ],
)
def test_PM7_anomalies(one: PhaseReport, found: list[tuple[str, int]]) -> None:
    """Above 150 %, below 50 %: THINK is still worked on, and may yet need the rest."""
    anomalies = find_anomalies([one], "THINK")
    assert [(each.dimension, each.percent) for each in anomalies] == found


def test_a_phase_without_a_limit_is_no_anomaly() -> None:
    free = PhaseReport("PLAN", "within", 1, amount(9, None), amount(9, None), NOTHING, FACTORS)
    assert find_anomalies([free], None) == ()


def test_PM7_comparison() -> None:
    """The median; of an even number the mean of the middle two."""
    assert compare(100, [], []) is None
    odd = compare(30, [10, 40, 20], [3, 2, 1])
    assert odd is not None
    assert (odd.tasks, odd.median_tokens, odd.median_latency_ms) == (3, 20, 2)
    assert odd.percent_of_median == 150
    even = compare(30, [10, 41], [1, 2])
    assert even is not None
    assert (even.median_tokens, even.median_latency_ms) == (25, 1)
    for unknown in (compare(None, [10], [1]), compare(5, [0], [0])):
        assert unknown is not None
        assert unknown.percent_of_median is None


def stop(state: str, remediation: str | None = None) -> StopLossReport:
    return StopLossReport(state, "runaway_task", "tokens", None, 1, remediation)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "No action needed."),
        ({"stop": stop("tripped", "FIX-T")}, "The stop-loss has stopped the task (runaway_task)"),
        ({"stop": stop("tripped", "FIX-T")}, "FIX-T mends it; "),
        ({"stop": stop("killed")}, "An operator killed the task"),
        ({"stop": stop("blocked")}, "The task's registration is wrong"),
        ({"status": "exceeded"}, "The budget is exceeded: split the task"),
        ({"status": "warning"}, "The task used more than its limit"),
        ({"totals": totals(101)}, "The task took 101% of its time"),
        ({"totals": None}, "figures of this task could not be read"),
        ({"anomalies": find_anomalies([phase("PLAN", 151)], None)}, "PLAN used 151% of its tokens"),
        ({"anomalies": find_anomalies([phase("PR", 60, 151)], None)}, "PR used 151% of its time"),
        ({"anomalies": find_anomalies([phase("PR", 1)], None)}, "PR used less than half"),
        ({"estimated_share": 0.21}, "21% of the tokens are estimates"),
        ({"estimated_share": 0.2}, "No action needed."),
        ({"similar": compare(63, [30, 30, 30], [1])}, "It used 210% of what similar tasks use"),
        ({"similar": compare(60, [30, 30, 30], [1])}, "No action needed."),
        ({"similar": compare(63, [30, 30], [1])}, "No action needed."),
    ],
)
def test_PM7_recommendations(changes: dict[str, Any], words: str) -> None:
    case: dict[str, Any] = {
        "totals": totals(),
        "status": "within",
        "stop": stop("ok"),
        "anomalies": (),
        "estimated_share": 0.0,
        "similar": None,
    }
    lines = recommend(**{**case, **changes})
    assert words in lines[0]


@pytest.mark.parametrize(
    ("used", "allowed", "text"),
    [
        (8_234, 10_000, "8,234 / 10,000 (82%)"),
        (5, None, "5"),
        (0, 0, "0 / 0 (0%)"),
        (1, 0, "1 / 0 (100%)"),
    ],
)
def test_REP2_used_against_the_limit(used: int, allowed: int | None, text: str) -> None:
    assert against(used, allowed, Dimension.TOKENS) == text
    assert against(245_000, 300_000, Dimension.LATENCY_MS) == "245s / 300s (82%)"
