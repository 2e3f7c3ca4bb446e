"""How fast a task spends."""

import pytest

from gateway.core.admission import Effects, Need, Scope, ScopeKind, Verdict, admit
from gateway.core.budget import Amounts, Dimension
from gateway.core.decision import Decision, Outcome, Receipt, decide
from gateway.core.policy import Effect, Mode, ReserveKind, StopLossPolicy
from gateway.core.velocity import (
    RatePlan,
    RatePolicy,
    RateStanding,
    plan_rate,
    too_fast,
    used_in_window,
)

POLICY = RatePolicy("fast", limits=Amounts(tokens=1_000, calls=5, latency_ms=9), window_s=30)
LINES = {Dimension.TOKENS: 1_000, Dimension.CALLS: 5}


@pytest.mark.parametrize(
    ("effect", "mode", "refuses", "would_refuse"),
    [
        (Effect.REFUSE, Mode.ENFORCE, True, False),
        (Effect.REFUSE, Mode.OBSERVE, False, True),
        (Effect.FLAG, Mode.ENFORCE, False, False),
        (Effect.FLAG, Mode.OBSERVE, False, False),
    ],
)
def test_what_a_policy_asks_of_the_store(
    effect: Effect, mode: Mode, refuses: bool, would_refuse: bool
) -> None:
    """Latency has no velocity."""
    policy = RatePolicy("fast", effect=effect, window_s=30, limits=POLICY.limits)
    assert plan_rate(policy, mode) == RatePlan("fast", 30_000, refuses, would_refuse, LINES)


def test_a_policy_that_is_off_asks_nothing() -> None:
    assert plan_rate(POLICY, Mode.OFF) is None


@pytest.mark.parametrize(
    ("now_ms", "counted"),
    [(60_000, 1_100), (60_001, 1_099), (75_000, 600), (89_999, 100), (89_900, 103)],
)
def test_the_span_before_counts_for_the_part_that_is_in_the_window(
    now_ms: int, counted: int
) -> None:
    assert used_in_window(100, 1_000, now_ms, 30_000) == counted


def test_a_correction_never_makes_it_negative() -> None:
    assert used_in_window(-50, 0, 0, 1_000) == 0


def test_a_line_is_crossed_by_more_than_it() -> None:
    used = {Dimension.TOKENS: 1_000, Dimension.NANO_USD: 10**9, Dimension.CALLS: 5}
    assert too_fast(LINES, used) is None
    assert too_fast(LINES, used | {Dimension.CALLS: 6}) is Dimension.CALLS
    assert too_fast(LINES, used | {Dimension.CALLS: 6, Dimension.TOKENS: 1_001}) is Dimension.TOKENS


def test_velocity_refuses_once_no_budget_does() -> None:
    scopes = (Scope(ScopeKind.TASK, "T", {}),)
    need = Need(1, 1, 0, 1, 0, 0)
    fast = admit(scopes, Effects({}, {}), ReserveKind.NONE, need, Dimension.TOKENS)
    assert (fast.verdict, fast.code) == (Verdict.REFUSED, "velocity_exceeded")
    assert (fast.scope, fast.dimension) == (scopes[0], Dimension.TOKENS)
    killed = (Scope(ScopeKind.TASK, "T", {}, "killed"),)
    assert admit(killed, Effects({}, {}), ReserveKind.NONE, need, Dimension.TOKENS).code == (
        "task_killed"
    )


def standing(tokens: int, *, would_refuse: bool = False) -> RateStanding:
    used = {Dimension.TOKENS: tokens, Dimension.NANO_USD: 0, Dimension.CALLS: 5}
    return RateStanding(RatePlan("fast", 30_000, not would_refuse, would_refuse, LINES), used)


def test_a_task_that_is_too_fast_is_flagged_or_refused() -> None:
    scopes = (Scope(ScopeKind.TASK, "T", {}),)

    def decided(rate: RateStanding, verdict: Verdict = Verdict.HELD) -> Decision:
        stopped = verdict is Verdict.REFUSED
        receipt = Receipt(
            verdict,
            1,
            scopes,
            stop_scope=scopes[0] if stopped else None,
            stop_dimension=Dimension.TOKENS if stopped else None,
            stop_code="velocity_exceeded" if stopped else "",
            rate=rate,
        )
        return decide(receipt, StopLossPolicy(), Mode.ENFORCE, 100)

    within = decided(standing(1_000))
    assert within.outcome is Outcome.ALLOW
    flagged = decided(standing(1_001, would_refuse=True))
    assert (flagged.outcome, flagged.would_refuse) == (Outcome.FLAG, True)
    [breach] = flagged.breaches
    assert (breach.scope, breach.name) == (ScopeKind.RATE, "fast")
    assert (breach.used, breach.line) == (1_001, 1_000)
    refused = decided(standing(2_000), Verdict.REFUSED)
    assert (refused.outcome, refused.code) == (Outcome.REFUSE, "velocity_exceeded")
    assert refused.message == (
        "Task T spends too fast: token 2,000 / 1,000 within 30s (policy fast). Retrying at once "
        "will not help. Stop and look whether the work goes in circles, then go on more slowly, "
        "or ask an operator."
    )
