"""Policies of kind `override_bounds`: how far an override may go (GW-18).

Who may lift a limit should not be able to lift it without end. A bound compares what the override
asks for, together with what is in force already, with the limits that the task started with.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from gateway.core.budget import (
    Amounts,
    Dimension,
    TaskLimits,
    TaskProfile,
    calculate_total_budget,
)
from gateway.core.match import ActedOn
from gateway.core.overrides import ROOM_GIVING, Override, OverrideKind
from gateway.core.policy_base import Mode, Policy, first_match

CODE = "override_out_of_bounds"
_PERCENT = 100


@dataclass(frozen=True, slots=True)
class OverrideBoundsPolicy(Policy):
    """A policy of kind `override_bounds`; None bounds nothing. Percents are of the task's start.

    `grant_percent` holds for all grants of the task's generation in force together, and for what
    reopening a task gives it; `phase_percent` for a phase's absolute limit. With `lasting_s` every
    override but a resume has to run out within so many seconds, which reopening cannot. Tokens of
    `exempt_roles` are not bound.
    """

    name: str = "override-bounds"
    grant_percent: int | None = None
    phase_percent: int | None = None
    factor: Decimal | None = None
    lasting_s: int | None = None
    exempt_roles: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Excess:
    """A bound that an override goes beyond: in `field`, by asking for `asked` of at most `most`."""

    field: str
    asked: int | Decimal | None
    most: int | Decimal
    dimension: Dimension | None = None
    percent: int | None = None


def binding(
    policies: Sequence[OverrideBoundsPolicy], profile: TaskProfile, task: str, role: str
) -> OverrideBoundsPolicy | None:
    """Return the policy that binds what `role` does to a task, None if none does."""
    policy = first_match(policies, profile.complexity, profile.importance, ActedOn(task))
    if policy is None or policy.mode is Mode.OFF or role in policy.exempt_roles:
        return None
    return policy


def excess(
    policy: OverrideBoundsPolicy, snapshot: TaskLimits, in_force: Sequence[Override], new: Override
) -> Excess | None:
    """Return the first bound that `new` goes beyond, beside the overrides that are in force."""
    return next(_excesses(policy, snapshot, in_force, new), None)


def _excesses(
    policy: OverrideBoundsPolicy, snapshot: TaskLimits, in_force: Sequence[Override], new: Override
) -> Iterator[Excess]:
    if new.kind is OverrideKind.RESUME:
        return
    if new.kind in ROOM_GIVING and policy.grant_percent is not None:
        granted = [*_granted_beside(new, in_force), new]
        limits = calculate_total_budget(snapshot.budgets)
        yield from _amounts_beyond(policy.grant_percent, limits, [one.amounts for one in granted])
    if new.phase is not None and policy.phase_percent is not None:
        limits = snapshot.budgets[new.phase].limits
        yield from _amounts_beyond(policy.phase_percent, limits, [new.amounts])
    if new.factor is not None and policy.factor is not None and new.factor > policy.factor:
        yield Excess("factor", new.factor, policy.factor)
    if policy.lasting_s is not None:
        lasting_ms = None if new.expires_ms is None else new.expires_ms - new.created_ms
        if lasting_ms is None or lasting_ms > policy.lasting_s * 1000:
            asked = None if lasting_ms is None else lasting_ms // 1000
            yield Excess("expires_in_s", asked, policy.lasting_s)


def _granted_beside(new: Override, in_force: Sequence[Override]) -> list[Override]:
    """Return the grants that count with `new`: those of its own generation of the task.

    What was granted for good before a reopening was used up, or is part of what that gave.
    """
    if new.kind is OverrideKind.GENERATION:
        return []
    begun = max(
        (n for n, one in enumerate(in_force, 1) if one.kind is OverrideKind.GENERATION), default=0
    )
    return [
        one
        for n, one in enumerate(in_force, 1)
        if one.kind is OverrideKind.GRANT and (n > begun or one.expires_ms is not None)
    ]


def _amounts_beyond(percent: int, limits: Amounts, asked: Sequence[Amounts]) -> Iterator[Excess]:
    """Yield the dimensions of the last of `asked` whose sum is beyond; no limit bounds nothing."""
    for dimension, amount in asked[-1].items():
        limit = limits.get(dimension)
        if amount is None or limit is None:
            continue
        total = sum(one.get(dimension) or 0 for one in asked)
        most = limit * percent // _PERCENT
        if total > most:
            yield Excess(dimension.value, total, most, dimension, percent)
