"""Spend limits: what a key, a team, a tenant or a model may use in a window of time (GW-11).

They are parents of every task: a call is held to them in the store's one reserve, with or without a
task. Crossing the soft line flags, crossing the hard one refuses in enforce mode. As with a task's
budget a line is crossed once the settled total is above it; what open calls hold counts for the
rule of calls in flight.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from msgspec import Struct

from gateway.core.budget import Amounts, Dimension
from gateway.core.match import Subject
from gateway.core.phases import Complexity, ImportanceTier
from gateway.core.policy_base import Mode, Policy
from gateway.core.vocabulary import Vocabulary
from gateway.core.windows import Span

MOST_LIMITS = 8  # that one call is held to: each costs the store a hash
NO_KEY = "anonymous"
_MOST_NAME = 128
_NO_LINES = Amounts()


class LimitScope(Vocabulary):
    """Whose spending is added up: there is a total for each key, team, tenant or model."""

    KEY = "key"
    TEAM = "team"
    TENANT = "tenant"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class SpendLimitPolicy(Policy):
    """A policy of kind `spend_limit`. Every one that matches a call holds, not the first alone."""

    name: str = "spend-limit"
    per: LimitScope = LimitScope.KEY
    window: Span = Span.DAY
    timezone: str = "UTC"
    soft: Amounts = _NO_LINES
    hard: Amounts = _NO_LINES


class SpendLimit(Struct, frozen=True):
    """One policy as it holds for one call: `name` is that of the key, team, tenant or model.

    `hard` refuses only if it is `enforced`; else crossing it would have refused.
    """

    policy: str
    kind: LimitScope
    name: str
    window: Span
    timezone: str
    enforced: bool
    soft: dict[Dimension, int]
    hard: dict[Dimension, int]

    def line(self, dimension: Dimension) -> int | None:
        """Return what notice levels are a share of: the hard line, or the soft one without it."""
        return self.hard.get(dimension, self.soft.get(dimension))


def limits_on(
    policies: Sequence[SpendLimitPolicy],
    complexity: Complexity,
    importance: ImportanceTier,
    call: Subject,
    tenant: str,
    mode_of: Callable[[Policy], Mode],
) -> tuple[SpendLimit, ...]:
    """Return the limits that hold for a call, in the order of their files."""
    limits: list[SpendLimit] = []
    for policy in policies:
        mode = mode_of(policy)
        if mode is Mode.OFF or not policy.match.matches(complexity, importance, call):
            continue
        name = _name_of(policy.per, call, tenant)
        if name:
            limits.append(
                SpendLimit(
                    policy.name,
                    policy.per,
                    name,
                    policy.window,
                    policy.timezone,
                    mode is Mode.ENFORCE,
                    _set(policy.soft),
                    _set(policy.hard),
                )
            )
    return tuple(limits[:MOST_LIMITS])


def _set(amounts: Amounts) -> dict[Dimension, int]:
    return {dimension: amount for dimension, amount in amounts.items() if amount is not None}


def _name_of(per: LimitScope, call: Subject, tenant: str) -> str:
    """Return whose total a call counts in; '' if there is none, as for a key without a team.

    Clients choose models, and people teams, so these are made safe for keys and for words of the
    ledger.
    """
    if per is LimitScope.TENANT:
        return tenant
    if per is LimitScope.MODEL:
        return model_name(next((name for name in call.models if name), ""))
    if per is LimitScope.TEAM:
        return model_name(call.key.team) if call.key else ""
    return call.key.id if call.key else NO_KEY


def model_name(model: str) -> str:
    """Return a model's name, or a team's, as one word without a colon."""
    return quote(model[:_MOST_NAME], safe="/")
