"""What speaks for a block having been wrong, case by case (PM2)."""

from typing import Any

import pytest

from gateway.core.budget import percent
from gateway.reports.doubts import NOTHING_SPEAKS, doubts_about_blocks
from gateway.reports.report import (
    Amount,
    Amounts,
    BlockedReport,
    BreachReport,
    Comparison,
    Factors,
    PhaseReport,
    StopLossReport,
)

FACTORS = Factors(1, 1, "1.0", "1.0", "1.0", "1", absolute=False)
NOTHING = Amount(0)
BLOCKED = BlockedReport(2, {"task_budget_exceeded": 2})
TRIPPED = StopLossReport("tripped", "task_budget_exceeded", "tokens", None, 1, None)
FREE = StopLossReport("ok", None, None, None, 1, None)


def amount(used: int, allowed: int = 1_000) -> Amount:
    return Amount(used, allowed, 0, allowed, percent(used, allowed))


def phase(name: str, tokens: int, executions: int = 1) -> PhaseReport:
    used = amount(tokens)
    return PhaseReport(name, "within", executions, used, NOTHING, NOTHING, FACTORS)


def breach(used: int, line: int = 1_200, scope: str = "task", effect: str = "trip") -> BreachReport:
    return BreachReport(
        *(scope, "T", "tokens", effect, "task_budget_exceeded"),
        *(used, 1_000, line, percent(used, 1_000), 1, "VERIFY", "c1", "2026-11-23T08:00:00Z"),
    )


def told(**changes: Any) -> tuple[str, ...]:
    """What is said of a task of 2,000 tokens in three phases that was stopped far above its line."""
    given: dict[str, Any] = {
        "totals": Amounts(amount(2_000), NOTHING, NOTHING, NOTHING),
        "phases": [phase("PLAN", 700), phase("THINK", 600), phase("VERIFY", 700)],
        "stops": (TRIPPED, BLOCKED),
        "breaches": [breach(2_000)],
        "estimated_share": 0.0,
        "similar": None,
    }
    return doubts_about_blocks(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"estimated_share": 0.21}, "21% of the tokens are estimates"),
        ({"breaches": [breach(1_260)]}, "crossed by 5% at most"),
        ({"breaches": [breach(9_000, scope="parent")]}, "that of its parent"),
        (
            {"similar": Comparison(3, 1_001, 1, 200)},
            "Half of 3 similar tasks needed more than 1,000",
        ),
        ({"similar": Comparison(3, 900, 1, 120)}, "120% of what similar tasks use"),
        ({"phases": [phase("PLAN", 700, 3)]}, "back and forth (PLAN 3 times)"),
        ({"phases": [phase("VERIFY", 1_300)]}, "65% went into VERIFY, in one go"),
    ],
)
def test_PM2_each_reason_is_told(changes: dict[str, Any], words: str) -> None:
    [line] = told(**changes)
    assert words in line


@pytest.mark.parametrize(
    "changes",
    [
        {"estimated_share": 0.2},
        {"breaches": [breach(1_261)]},
        {"breaches": [breach(1_210, effect="flag")]},
        {"similar": Comparison(2, 5_000, 1, 100)},
        {"similar": Comparison(9, 900, 1, 121)},
        {"phases": [phase("PLAN", 700, 2)]},
        {"phases": [phase("VERIFY", 1_200)]},
        {"phases": [phase("VERIFY", 1_900, 2)]},
    ],
)
def test_PM2_otherwise_nothing_speaks_for_it(changes: dict[str, Any]) -> None:
    assert told(**changes) == (NOTHING_SPEAKS,)


def test_PM2_only_blocks_are_doubted() -> None:
    """Also one that an override has ended by now; nothing can be said without figures."""
    assert told(stops=(FREE, BLOCKED)) == (NOTHING_SPEAKS,)
    assert told(stops=(TRIPPED, None)) == (NOTHING_SPEAKS,)
    assert told(stops=(FREE, BlockedReport(0, {}))) == ()
    assert told(stops=(None, None)) == ()
    assert told(totals=None) == ()
