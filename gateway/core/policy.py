"""Policies as values: what a YAML document of `policies/` says, once validated.

Numbers (limits, thresholds) live in `phase_budgets.yaml` and are frozen per task; a policy is live
and says what happens when a line is crossed. A call takes one `PolicySet` and keeps it to its end.

A kind is three things under one name: a class here, or in a module of its own that is built on
`core/policy_base.py`, a field of `PolicySet` whose default holds without a file of that kind, and a
reader in `rule_files/policy_kinds.py`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain

from gateway.core.grace import GraceCallPolicy
from gateway.core.loops import LoopPolicy
from gateway.core.match import Subject
from gateway.core.mid_stream_stop import MidStreamStopPolicy
from gateway.core.model_downgrade import ModelDowngradePolicy
from gateway.core.output_clamp import OutputClampPolicy
from gateway.core.override_bounds import OverrideBoundsPolicy
from gateway.core.parallel_phases import ParallelPhases
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.policy_base import AnyPolicy, Effect, Match, Mode, Policy, first_match
from gateway.core.prices import ModelPrice
from gateway.core.spend_limits import SpendLimitPolicy
from gateway.core.untagged import UntaggedCallsPolicy
from gateway.core.velocity import RatePolicy
from gateway.core.vocabulary import Vocabulary
from gateway.core.webhook import WebhookPolicy

__all__ = [
    "AnyPolicy",
    "DimensionAction",
    "Effect",
    "FreeRoute",
    "Match",
    "Mode",
    "Policy",
    "PolicySet",
    "ReserveKind",
    "StopLossPolicy",
    "StoreFailure",
    "UnmeteredRoutePolicy",
    "UnpricedEffect",
    "UnpricedModelPolicy",
    "first_match",
    "in_stop_loss_mode",
]


class UnpricedEffect(Vocabulary):
    """What a call to a model without a known price comes to; `assume` prices it as stated."""

    DENY = "deny"
    FLAG = "flag"
    ASSUME = "assume"


class ReserveKind(Vocabulary):
    """What is held before a call, and whether it is compared (section 6 of the arithmetic)."""

    EXPECTED = "expected"
    WORST_CASE = "worst_case"
    NONE = "none"


class StoreFailure(Vocabulary):
    """What happens to a call when the budget store does not answer."""

    OPEN = "open"
    CLOSED = "closed"
    ALLOWANCE = "allowance"


class DimensionAction(Vocabulary):
    """What crossing a line of one dimension does; `off`: that dimension is not compared."""

    OFF = "off"
    FLAG = "flag"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class StopLossPolicy(Policy):
    """A policy of kind `stop_loss`. `enforce_from` None stands for `any`.

    `token_action` and `cost_action` switch those dimensions alone (USE-5); None is `effect`.
    """

    name: str = "stop-loss"
    effect: Effect = Effect.REFUSE
    enforce_from: WorkPhase | None = WorkPhase.VERIFY
    reserve: ReserveKind = ReserveKind.EXPECTED
    latency_action: Effect = Effect.FLAG
    phase_action: Effect = Effect.FLAG
    store_failure: StoreFailure = StoreFailure.OPEN
    allowance_tokens: int = 50_000
    token_action: DimensionAction | None = None
    cost_action: DimensionAction | None = None
    parallel_phases: ParallelPhases = ParallelPhases.COUNT

    def __hash__(self) -> int:
        """Return a hash over the name alone: names are unique in a set, and calls look up by it."""
        return hash(self.name)


@dataclass(frozen=True, slots=True)
class UnpricedModelPolicy(Policy):
    """A policy of kind `unpriced_model`; `assume` is the price to take, for the effect `assume`."""

    name: str = "unpriced-model"
    effect: UnpricedEffect = UnpricedEffect.FLAG
    assume: ModelPrice | None = None


@dataclass(frozen=True, slots=True)
class FreeRoute:
    """A route that an operator declares free: a method, and a path pattern as in `fits`."""

    method: str
    path: str

    def fits(self, method: str, path: str) -> bool:
        """Return whether this route is meant; `path` comes without its query.

        A method of `*` is any; in the path `*` is one segment, and `**` at its end any rest.
        """
        return self.method in ("*", method) and _path_pattern(self.path).fullmatch(path) is not None


@lru_cache(maxsize=256)
def _path_pattern(path: str) -> re.Pattern[str]:
    escaped = re.escape(path).replace(r"\*\*", ".*").replace(r"\*", "[^/]+")
    return re.compile(escaped, re.DOTALL)


@dataclass(frozen=True, slots=True)
class UnmeteredRoutePolicy(Policy):
    """A policy of kind `unmetered_route`: what becomes of calls that cannot be metered."""

    name: str = "unmetered-route"
    effect: Effect = Effect.REFUSE
    free: tuple[FreeRoute, ...] = ()

    def is_free(self, method: str, path: str) -> bool:
        """Return whether the route is one that the operator declared free."""
        return any(route.fits(method, path) for route in self.free)


@dataclass(frozen=True, slots=True)
class PolicySet:
    """All policies in force by kind, each in file-name order, with the hash that answers name.

    For each kind the first that matches a task is its policy. A kind of which there is no file has
    the built-in policy that is the field's default.
    """

    stop_loss: tuple[StopLossPolicy, ...] = (StopLossPolicy(),)
    policy_hash: str = ""
    unpriced_model: tuple[UnpricedModelPolicy, ...] = (UnpricedModelPolicy(),)
    unmetered_route: tuple[UnmeteredRoutePolicy, ...] = (UnmeteredRoutePolicy(),)
    loop: tuple[LoopPolicy, ...] = ()
    grace_call: tuple[GraceCallPolicy, ...] = ()
    webhook: tuple[WebhookPolicy, ...] = ()
    untagged_calls: tuple[UntaggedCallsPolicy, ...] = (UntaggedCallsPolicy(),)
    output_clamp: tuple[OutputClampPolicy, ...] = ()
    model_downgrade: tuple[ModelDowngradePolicy, ...] = ()
    mid_stream_stop: tuple[MidStreamStopPolicy, ...] = ()
    spend_limit: tuple[SpendLimitPolicy, ...] = ()
    rate: tuple[RatePolicy, ...] = ()
    override_bounds: tuple[OverrideBoundsPolicy, ...] = ()

    def stop_loss_for(
        self, complexity: Complexity, importance: ImportanceTier, call: Subject | None = None
    ) -> StopLossPolicy:
        """Return the call's stop-loss policy, or one that is off."""
        return first_match(self.stop_loss, complexity, importance, call) or _NO_STOP_LOSS

    def unpriced_model_for(
        self, complexity: Complexity, importance: ImportanceTier, call: Subject | None = None
    ) -> UnpricedModelPolicy:
        """Return the call's policy for models without a price, or one that is off."""
        return first_match(self.unpriced_model, complexity, importance, call) or _NO_UNPRICED_MODEL

    def unmetered_route_for(
        self, complexity: Complexity, importance: ImportanceTier, call: Subject | None = None
    ) -> UnmeteredRoutePolicy:
        """Return the call's policy for routes that cannot be metered, or one that is off."""
        return (
            first_match(self.unmetered_route, complexity, importance, call) or _NO_UNMETERED_ROUTE
        )

    def rate_for(
        self, complexity: Complexity, importance: ImportanceTier, call: Subject | None = None
    ) -> RatePolicy | None:
        """Return the policy that the task's velocity is held to, None if there is none."""
        return first_match(self.rate, complexity, importance, call)

    @property
    def depend_on_phase(self) -> bool:
        """Return whether a policy is for calls of some phases only."""
        kinds = (getattr(self, kind) for kind in self.__slots__ if kind != "policy_hash")
        policies = chain.from_iterable(kinds)
        return any(calls.phase for policy in policies for calls in policy.match.calls)

    @property
    def refuses_without_store(self) -> bool:
        """Return whether every policy refuses its tasks' calls while the store does not answer."""
        return bool(self.stop_loss) and all(
            policy.mode is Mode.ENFORCE and policy.store_failure is StoreFailure.CLOSED
            for policy in self.stop_loss
        )


_NO_STOP_LOSS = StopLossPolicy(name="none", mode=Mode.OFF)
_NO_UNPRICED_MODEL = UnpricedModelPolicy(name="none", mode=Mode.OFF)
_NO_UNMETERED_ROUTE = UnmeteredRoutePolicy(name="none", mode=Mode.OFF)


def in_stop_loss_mode(
    policy: AnyPolicy, stop_loss: Sequence[StopLossPolicy]
) -> Iterator[AnyPolicy]:
    """Yield `policy` once for each stop-loss policy, in its mode and for its tasks only.

    The last one is off, for the tasks that no stop-loss policy matches, if there can be any.
    """
    for other in stop_loss:
        match = policy.match.within(other.match)
        if match is not None:
            yield replace(policy, mode=other.mode, match=match)
        if match == policy.match:
            return
    yield replace(policy, mode=Mode.OFF)
