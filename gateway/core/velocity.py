"""Velocity: how fast a task spends, against a policy of kind `rate` (GW-13).

What was settled, and the calls that were let through, are counted in spans of `window_ms`. The
rate is that of the current span and of the part of the one before that is not longer ago than a
span: a window that slides, without a record of every call.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from msgspec import Struct

from gateway.core.amount_text import NOUNS, format_amount
from gateway.core.budget import Amounts, Dimension
from gateway.core.policy_base import Effect, Mode, Policy

_NO_LINES = Amounts()
RATED = (Dimension.TOKENS, Dimension.NANO_USD, Dimension.CALLS)


@dataclass(frozen=True, slots=True)
class RatePolicy(Policy):
    """A policy of kind `rate`: what a task may use in any `window_s` seconds."""

    name: str = "rate"
    effect: Effect = Effect.REFUSE
    window_s: int = 60
    limits: Amounts = _NO_LINES


class RatePlan(Struct, frozen=True):
    """A policy as it holds for one call. It `refuses`, or only would in enforce mode."""

    policy: str
    window_ms: int
    refuses: bool
    would_refuse: bool
    lines: dict[Dimension, int]


class RateStanding(Struct, frozen=True):
    """What the store says: used in the window that ends now, without this call."""

    plan: RatePlan
    used: dict[Dimension, int]

    @property
    def crossed(self) -> Dimension | None:
        """Return the first dimension in which the task is too fast."""
        return too_fast(self.plan.lines, self.used)


def plan_rate(policy: RatePolicy, mode: Mode) -> RatePlan | None:
    """Return what a policy in `mode` asks of the store, None if nothing."""
    if mode is Mode.OFF:
        return None
    lines = {
        dimension: amount
        for dimension, amount in policy.limits.items()
        if amount is not None and dimension in RATED
    }
    refuses = policy.effect is Effect.REFUSE
    return RatePlan(
        policy.name,
        policy.window_s * 1000,
        refuses and mode is Mode.ENFORCE,
        refuses and mode is Mode.OBSERVE,
        lines,
    )


def too_fast(lines: Mapping[Dimension, int], used: Mapping[Dimension, int]) -> Dimension | None:
    """Return the first dimension of which more was used than its line, None if there is none."""
    for dimension, line in lines.items():
        if used[dimension] > line:
            return dimension
    return None


def used_in_window(current: int, before: int, now_ms: int, window_ms: int) -> int:
    """Return what counts now of the current span and of the one before it."""
    return max(0, current + before * (window_ms - now_ms % window_ms) // window_ms)


def velocity_message(task: str, standing: RateStanding, dimension: Dimension) -> str:
    """Return what the agent reads."""
    plan = standing.plan
    used = format_amount(standing.used[dimension], dimension)
    line = format_amount(plan.lines[dimension], dimension)
    return (
        f"Task {task} spends too fast: {NOUNS[dimension]} {used} / {line} within "
        f"{plan.window_ms // 1000}s (policy {plan.policy}). Retrying at once will not help. Stop "
        "and look whether the work goes in circles, then go on more slowly, or ask an operator."
    )
