"""The kinds of policy as they stand in files: one document a kind, each gives a policy as a value.

A new kind is a class here, its line in `POLICY_KINDS`, and what `core/policy.py` says of kinds.
"""

import re
from abc import abstractmethod
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from typing import Annotated, Literal, Self, TypedDict, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gateway.core.match import CallMatch
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.policy import (
    Effect,
    FreeRoute,
    Match,
    Mode,
    Policy,
    ReserveKind,
    StopLossPolicy,
    StoreFailure,
    UnmeteredRoutePolicy,
    UnpricedEffect,
    UnpricedModelPolicy,
)
from gateway.core.prices import ModelPrice, rate_from_usd_per_token
from gateway.findings import rule, suggestion

_ANY_PHASE = "any"
_ANY_CALL = CallMatch()
_TOKENS_PER_MILLION = 1_000_000
_FREE_ROUTE = re.compile(r"(\*|[A-Z]+) (/[^\s?#*]*(?:\*[^\s?#*]+)*(?:\*\*?)?)")

Word = TypeVar("Word", bound=Enum)


def _word(vocabulary: type[Word], value: object) -> object:
    """Return the member that a word names, in any letter case."""
    known = {str(member.value): member for member in vocabulary}
    folded = {word.lower(): member for word, member in known.items()}
    if not isinstance(value, str):
        return value
    if value.strip().lower() not in folded:
        raise rule(f"{value!r} is not allowed", suggestion(value, known))
    return folded[value.strip().lower()]


def _mode(value: object) -> object:
    """Return a mode; a boolean False is what YAML 1.1 makes of `off`."""
    return _word(Mode, "off" if value is False else value)


def _enforce_from(value: object) -> object:
    """Return a phase, or None for `any`; nothing at all is not the same as `any`."""
    if isinstance(value, str) and value.strip().lower() == _ANY_PHASE:
        return None
    if value is None:
        raise rule("is empty", f"name a phase, or {_ANY_PHASE}")
    return _word(WorkPhase, value)


def _tiers(vocabulary: type[Word], value: object) -> object:
    if not isinstance(value, list):
        raise rule("must be a list", "write it like [low, medium]; [] matches all")
    return frozenset(_word(vocabulary, item) for item in value)


def _patterns(value: object) -> object:
    if not isinstance(value, list):
        raise rule("must be a list", "write it like ['gpt-5*', o3]; [] matches all")
    for item in value:
        if not isinstance(item, str) or not item.strip():
            raise rule(f"{item!r} is not a name", "write it like 'gpt-5*'; * is any rest")
    return frozenset(value)


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
    return FreeRoute(match[1], match[2])


def _one_of(vocabulary: type[Word]) -> BeforeValidator:
    return BeforeValidator(lambda value: _word(vocabulary, value))


def _set_of(vocabulary: type[Word]) -> BeforeValidator:
    return BeforeValidator(lambda value: _tiers(vocabulary, value))


class _Model(BaseModel):
    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True, strict=True)


class MatchDocument(_Model):
    """Which tasks and calls a policy is for. Names are patterns; `core/match.py` says of what."""

    complexity: Annotated[frozenset[Complexity], _set_of(Complexity)] = frozenset()
    importance: Annotated[frozenset[ImportanceTier], _set_of(ImportanceTier)] = frozenset()
    phase: Annotated[frozenset[WorkPhase], _set_of(WorkPhase)] = frozenset()
    key: Annotated[frozenset[str], BeforeValidator(_patterns)] = frozenset()
    team: Annotated[frozenset[str], BeforeValidator(_patterns)] = frozenset()
    tenant: Annotated[frozenset[str], BeforeValidator(_patterns)] = frozenset()
    task: Annotated[frozenset[str], BeforeValidator(_patterns)] = frozenset()
    model: Annotated[frozenset[str], BeforeValidator(_patterns)] = frozenset()

    def match(self) -> Match:
        """Return the match as a value."""
        call = CallMatch(self.phase, self.key, self.team, self.tenant, self.task, self.model)
        return Match(self.complexity, self.importance, () if call == _ANY_CALL else (call,))


_UsdPerMillion = Annotated[float, Field(ge=0, le=1_000_000)]


class AssumedPriceDocument(_Model):
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


class _Common(TypedDict):
    name: str
    mode: Mode
    match: Match


class PolicyDocument(_Model):
    """What policies of every kind state. A kind says whether `mode` may be left out.

    Left out it is that of the task's stop-loss policy.
    """

    kind: str
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    mode: Annotated[Mode | None, BeforeValidator(_mode)] = None
    match: MatchDocument = MatchDocument()

    @abstractmethod
    def policy(self) -> Policy:
        """Return the policy as a value; a mode that was left out is to be set."""

    def _common(self) -> _Common:
        return {
            "name": self.name,
            "mode": self.mode or Mode.OBSERVE,
            "match": self.match.match(),
        }


class StopLossDocument(PolicyDocument):
    """A policy of kind `stop_loss` as it stands in a file."""

    kind: Literal["stop_loss"]
    mode: Annotated[Mode, BeforeValidator(_mode)]
    effect: Annotated[Effect, _one_of(Effect)] = Effect.REFUSE
    enforce_from: Annotated[WorkPhase | None, BeforeValidator(_enforce_from)] = WorkPhase.VERIFY
    reserve: Annotated[ReserveKind, _one_of(ReserveKind)] = ReserveKind.EXPECTED
    latency_action: Annotated[Effect, _one_of(Effect)] = Effect.FLAG
    phase_action: Annotated[Effect, _one_of(Effect)] = Effect.FLAG
    store_failure: Annotated[StoreFailure, _one_of(StoreFailure)] = StoreFailure.OPEN
    allowance_tokens: Annotated[int, Field(gt=0, le=10**12, strict=True)] = 50_000

    def policy(self) -> StopLossPolicy:
        """Return the policy as a value."""
        return StopLossPolicy(
            **self._common(),
            effect=self.effect,
            enforce_from=self.enforce_from,
            reserve=self.reserve,
            latency_action=self.latency_action,
            phase_action=self.phase_action,
            store_failure=self.store_failure,
            allowance_tokens=self.allowance_tokens,
        )


class UnpricedModelDocument(PolicyDocument):
    """A policy of kind `unpriced_model` as it stands in a file."""

    kind: Literal["unpriced_model"]
    effect: Annotated[UnpricedEffect, _one_of(UnpricedEffect)] = UnpricedEffect.FLAG
    assume: AssumedPriceDocument | None = None

    @model_validator(mode="after")
    def _price_to_assume(self) -> Self:
        if self.effect is UnpricedEffect.ASSUME and self.assume is None:
            raise rule("effect assume needs a price", "add it under assume, or choose deny or flag")
        return self

    def policy(self) -> UnpricedModelPolicy:
        """Return the policy as a value."""
        return UnpricedModelPolicy(
            **self._common(),
            effect=self.effect,
            assume=self.assume.price() if self.assume else None,
        )


class UnmeteredRouteDocument(PolicyDocument):
    """A policy of kind `unmetered_route` as it stands in a file."""

    kind: Literal["unmetered_route"]
    effect: Annotated[Effect, _one_of(Effect)] = Effect.REFUSE
    free: Annotated[tuple[FreeRoute, ...], BeforeValidator(_free_routes)] = ()

    def policy(self) -> UnmeteredRoutePolicy:
        """Return the policy as a value."""
        return UnmeteredRoutePolicy(**self._common(), effect=self.effect, free=self.free)


POLICY_KINDS: Mapping[str, type[PolicyDocument]] = {
    "stop_loss": StopLossDocument,
    "unpriced_model": UnpricedModelDocument,
    "unmetered_route": UnmeteredRouteDocument,
}
"""The documents by `kind`, which is also the name of the kind's field in `PolicySet`."""
