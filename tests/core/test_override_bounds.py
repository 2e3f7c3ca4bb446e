"""How far an override may go."""

from dataclasses import replace
from decimal import Decimal

import pytest

from gateway.core.budget import Amounts, Dimension, TaskLimits, TaskProfile, task_limits
from gateway.core.override_bounds import Excess, OverrideBoundsPolicy, binding, excess
from gateway.core.overrides import Override, OverrideKind
from gateway.core.phases import ImportanceTier, WorkPhase
from gateway.core.policy_base import Match, Mode
from tests.store.agent import budgets

BOUNDS = OverrideBoundsPolicy(
    grant_percent=50, phase_percent=200, factor=Decimal("1.5"), lasting_s=3_600
)
START: TaskLimits = task_limits(budgets(), TaskProfile())
TOTAL = 23_400
THINK = START.budgets[WorkPhase.THINK].token_limit


def override(kind: OverrideKind, *, lasting_s: int | None = 60, **does: object) -> Override:
    expires_ms = None if lasting_s is None else 1_000 + lasting_s * 1_000
    made = Override(kind, "ada", "why", created_ms=1_000, expires_ms=expires_ms)
    return replace(made, **does)  # type: ignore[arg-type]  # fields of an override


def grant(tokens: int | None = None, **amounts: int) -> Override:
    return override(OverrideKind.GRANT, amounts=Amounts(tokens, **amounts))


def lasting(tokens: int) -> Override:
    return override(OverrideKind.GRANT, lasting_s=None, amounts=Amounts(tokens))


def generation(tokens: int) -> Override:
    return override(OverrideKind.GENERATION, amounts=Amounts(tokens))


def limit(tokens: int) -> Override:
    phase = WorkPhase.THINK
    return override(OverrideKind.PHASE_LIMIT, amounts=Amounts(tokens), phase=phase)


def factor(text: str) -> Override:
    return override(OverrideKind.MULTIPLIER, factor=Decimal(text))


@pytest.mark.parametrize(
    ("new", "in_force"),
    [
        (grant(TOTAL // 2), []),
        (grant(TOTAL // 4), [grant(TOTAL // 4), factor("1.5"), limit(1)]),
        (grant(nano_usd=10**12), []),  # the task has no limit in money
        (limit(2 * THINK), []),
        (factor("1.5"), [grant(TOTAL)]),
        (override(OverrideKind.RESUME, lasting_s=None), []),
        (override(OverrideKind.GRANT, lasting_s=3_600), []),
        (generation(TOTAL // 2), [grant(TOTAL // 2)]),
        (grant(TOTAL // 2), [lasting(TOTAL // 2), generation(TOTAL)]),
    ],
)
def test_what_is_within(new: Override, in_force: list[Override]) -> None:
    """At a bound is within."""
    assert excess(BOUNDS, START, in_force, new) is None


TOKENS = Dimension.TOKENS


@pytest.mark.parametrize(
    ("new", "in_force", "found"),
    [
        (grant(11_701), [], Excess("tokens", 11_701, 11_700, TOKENS, 50)),
        (grant(1), [grant(11_700)], Excess("tokens", 11_701, 11_700, TOKENS, 50)),
        (
            grant(1, latency_ms=10**9),
            [],
            Excess("latency_ms", 10**9, 286_500, Dimension.LATENCY_MS, 50),
        ),
        (limit(2 * THINK + 1), [], Excess("tokens", 2 * THINK + 1, 2 * THINK, TOKENS, 200)),
        (factor("1.51"), [], Excess("factor", Decimal("1.51"), Decimal("1.5"))),
        (
            override(OverrideKind.GRANT, lasting_s=3_601),
            [],
            Excess("expires_in_s", 3_601, 3_600),
        ),
        (override(OverrideKind.GRANT, lasting_s=None), [], Excess("expires_in_s", None, 3_600)),
    ],
)
def test_GW18_what_goes_beyond(new: Override, in_force: list[Override], found: Excess) -> None:
    """Grants add up; what has no end lasts too long."""
    assert excess(BOUNDS, START, in_force, new) == found


def test_without_bounds_nothing_is_bound() -> None:
    """Each bound is switched by itself."""
    for new in (grant(10**12), limit(10**9), factor("10")):
        assert excess(OverrideBoundsPolicy(), START, [], new) is None


def test_who_is_bound_by_which_policy() -> None:
    """The first that is for the task; not those that it exempts, nor while it is off."""
    low = Match(importance=frozenset({ImportanceTier.LOW}))
    mine = replace(BOUNDS, mode=Mode.ENFORCE, exempt_roles=frozenset({"admin"}))
    policies = (replace(mine, match=low), mine)
    assert binding(policies, TaskProfile(), "T", "operator") is mine
    assert binding(policies[:1], TaskProfile(), "T", "operator") is None
    assert binding(policies, TaskProfile(), "T", "admin") is None
    assert binding((replace(mine, mode=Mode.OFF),), TaskProfile(), "T", "operator") is None
