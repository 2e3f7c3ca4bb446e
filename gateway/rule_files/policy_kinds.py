"""The kinds of policy as they stand in files: one document a kind, each gives a policy as a value.

A new kind is a class here, its line in `POLICY_KINDS`, and what `core/policy.py` says of kinds.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from gateway.core.grace import GraceCallPolicy
from gateway.core.loops import LoopPolicy
from gateway.core.parallel_phases import ParallelPhases
from gateway.core.phases import WorkPhase
from gateway.core.policy import (
    DimensionAction,
    Effect,
    FreeRoute,
    Mode,
    ReserveKind,
    StopLossPolicy,
    StoreFailure,
    UnmeteredRoutePolicy,
    UnpricedEffect,
    UnpricedModelPolicy,
)
from gateway.core.prices import ModelPrice, rate_from_usd_per_token
from gateway.core.untagged import UntaggedCallsPolicy, UntaggedEffect
from gateway.findings import rule, suggestion
from gateway.rule_files.limit_policies import RateDocument, SpendLimitDocument
from gateway.rule_files.override_bounds_policy import OverrideBoundsDocument
from gateway.rule_files.policy_document import (
    Document,
    MatchDocument,
    PolicyDocument,
    one_of,
    read_mode,
    read_word,
)
from gateway.rule_files.shaping_policies import (
    MidStreamStopDocument,
    ModelDowngradeDocument,
    OutputClampDocument,
)
from gateway.rule_files.webhook_policy import WebhookDocument

_ANY_PHASE = "any"
_TOKENS_PER_MILLION = 1_000_000
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "*")
_FREE_ROUTE = re.compile(r"(\*|[A-Z]+) (/[^\s?#*]*(?:\*[^\s?#*]+)*(?:\*\*?)?)")


def _enforce_from(value: object) -> object:
    """Return a phase, or None for `any`; nothing at all is not the same as `any`."""
    if isinstance(value, str) and value.strip().lower() == _ANY_PHASE:
        return None
    if value is None:
        raise rule("is empty", f"name a phase, or {_ANY_PHASE}")
    return read_word(WorkPhase, value)


def _action(value: object) -> object:
    """Return what crossing a dimension's line does; a boolean False is what YAML makes of `off`."""
    return read_word(DimensionAction, "off" if value is False else value)


def _free_routes(value: object) -> object:
    if not isinstance(value, list):
        raise rule("must be a list", "write it like ['GET /v1/files/*']; [] is none")
    return tuple(_free_route(item) for item in value)


def _free_route(text: object) -> FreeRoute:
    match = _FREE_ROUTE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise rule(
            f"{text!r} is not a method and a path",
            "write it like 'GET /v1/files/*'; * stands for a method or one part of the path, "
            "** at the end for any rest",
        )
    if match[1] not in _METHODS:
        raise rule(f"{match[1]!r} is no method", suggestion(match[1], _METHODS))
    return FreeRoute(match[1], match[2])


_UsdPerMillion = Annotated[float, Field(ge=0, le=1_000_000)]


class AssumedPriceDocument(Document):
    """A price that is taken for models without one, in dollars per million tokens."""

    input_usd_per_million: _UsdPerMillion
    output_usd_per_million: _UsdPerMillion
    cached_read_usd_per_million: _UsdPerMillion | None = None
    cache_write_usd_per_million: _UsdPerMillion | None = None

    def price(self) -> ModelPrice:
        """Return the price; a cache rate that is not stated is the input's."""
        plain = _rate(self.input_usd_per_million)
        read, write = self.cached_read_usd_per_million, self.cache_write_usd_per_million
        return ModelPrice(
            input=plain,
            output=_rate(self.output_usd_per_million),
            cached_read=plain if read is None else _rate(read),
            cache_write=plain if write is None else _rate(write),
        )


def _rate(usd_per_million: float) -> int:
    return rate_from_usd_per_token(Decimal(str(usd_per_million)) / _TOKENS_PER_MILLION)


_Action = Annotated[DimensionAction, BeforeValidator(_action)]


class StopLossDocument(PolicyDocument):
    """A policy of kind `stop_loss` as it stands in a file."""

    kind: Literal["stop_loss"]
    mode: Annotated[Mode, BeforeValidator(read_mode)]
    effect: Annotated[Effect, one_of(Effect)] = Effect.REFUSE
    enforce_from: Annotated[WorkPhase | None, BeforeValidator(_enforce_from)] = WorkPhase.VERIFY
    reserve: Annotated[ReserveKind, one_of(ReserveKind)] = ReserveKind.EXPECTED
    latency_action: Annotated[Effect, one_of(Effect)] = Effect.FLAG
    phase_action: Annotated[Effect, one_of(Effect)] = Effect.FLAG
    token_action: _Action | None = None
    cost_action: _Action | None = None
    parallel_phases: Annotated[ParallelPhases, one_of(ParallelPhases)] = ParallelPhases.COUNT
    store_failure: Annotated[StoreFailure, one_of(StoreFailure)] = StoreFailure.OPEN
    allowance_tokens: Annotated[int, Field(gt=0, le=10**12, strict=True)] = 50_000

    def policy(self) -> StopLossPolicy:
        """Return the policy as a value."""
        return StopLossPolicy(
            **self.common(),
            effect=self.effect,
            enforce_from=self.enforce_from,
            reserve=self.reserve,
            latency_action=self.latency_action,
            phase_action=self.phase_action,
            token_action=self.token_action,
            cost_action=self.cost_action,
            parallel_phases=self.parallel_phases,
            store_failure=self.store_failure,
            allowance_tokens=self.allowance_tokens,
        )


class UnpricedModelDocument(PolicyDocument):
    """A policy of kind `unpriced_model` as it stands in a file."""

    kind: Literal["unpriced_model"]
    effect: Annotated[UnpricedEffect, one_of(UnpricedEffect)] = UnpricedEffect.FLAG
    assume: AssumedPriceDocument | None = None

    @model_validator(mode="after")
    def _price_to_assume(self) -> Self:
        if self.effect is UnpricedEffect.ASSUME and self.assume is None:
            raise rule("effect assume needs a price", "add it under assume, or choose deny or flag")
        return self

    def policy(self) -> UnpricedModelPolicy:
        """Return the policy as a value."""
        return UnpricedModelPolicy(
            **self.common(),
            effect=self.effect,
            assume=self.assume.price() if self.assume else None,
        )


class UnmeteredRouteDocument(PolicyDocument):
    """A policy of kind `unmetered_route` as it stands in a file."""

    kind: Literal["unmetered_route"]
    effect: Annotated[Effect, one_of(Effect)] = Effect.REFUSE
    free: Annotated[tuple[FreeRoute, ...], BeforeValidator(_free_routes)] = ()

    def policy(self) -> UnmeteredRoutePolicy:
        """Return the policy as a value."""
        return UnmeteredRoutePolicy(**self.common(), effect=self.effect, free=self.free)


class UntaggedCallsDocument(PolicyDocument):
    """A policy of kind `untagged_calls` as it stands in a file."""

    kind: Literal["untagged_calls"]
    effect: Annotated[UntaggedEffect, one_of(UntaggedEffect)] = UntaggedEffect.ALLOW

    def policy(self) -> UntaggedCallsPolicy:
        """Return the policy as a value."""
        return UntaggedCallsPolicy(**self.common(), effect=self.effect)


class LoopDocument(PolicyDocument):
    """A policy of kind `loop` as it stands in a file."""

    kind: Literal["loop"]
    effect: Annotated[Effect, one_of(Effect)] = Effect.REFUSE
    calls: Annotated[int, Field(ge=2, le=100)] = 20
    window_s: Annotated[int, Field(ge=1, le=86_400)] = 600
    growing_calls: Annotated[int, Field(ge=0, le=1_000)] = 0
    growing_output_tokens: Annotated[int, Field(gt=0, le=10**9)] = 200

    def policy(self) -> LoopPolicy:
        """Return the policy as a value."""
        return LoopPolicy(
            **self.common(),
            effect=self.effect,
            calls=self.calls,
            window_s=self.window_s,
            growing_calls=self.growing_calls,
            growing_output_tokens=self.growing_output_tokens,
        )


class GraceCallDocument(PolicyDocument):
    """A policy of kind `grace_call` as it stands in a file."""

    kind: Literal["grace_call"]
    allowance_tokens: Annotated[int, Field(gt=0, le=10**12)] = 20_000

    def policy(self) -> GraceCallPolicy:
        """Return the policy as a value."""
        return GraceCallPolicy(**self.common(), allowance_tokens=self.allowance_tokens)


__all__ = ["ALL_APPLY", "POLICY_KINDS", "MatchDocument", "PolicyDocument"]

POLICY_KINDS: Mapping[str, type[PolicyDocument]] = {
    "stop_loss": StopLossDocument,
    "unpriced_model": UnpricedModelDocument,
    "unmetered_route": UnmeteredRouteDocument,
    "untagged_calls": UntaggedCallsDocument,
    "loop": LoopDocument,
    "grace_call": GraceCallDocument,
    "spend_limit": SpendLimitDocument,
    "rate": RateDocument,
    "webhook": WebhookDocument,
    "output_clamp": OutputClampDocument,
    "override_bounds": OverrideBoundsDocument,
    "model_downgrade": ModelDowngradeDocument,
    "mid_stream_stop": MidStreamStopDocument,
}
"""The documents by `kind`, which is also the name of the kind's field in `PolicySet`."""

ALL_APPLY = frozenset({"spend_limit", "webhook"})
"""The kinds of which every policy that matches is for a task, not only the first."""
