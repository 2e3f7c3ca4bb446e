"""Policies of the kinds `spend_limit` and `rate` as they stand in files."""

from decimal import Decimal
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from gateway.core.budget import NANO_USD_PER_USD, Amounts
from gateway.core.policy_base import Effect, Mode
from gateway.core.spend_limits import LimitScope, SpendLimitPolicy
from gateway.core.velocity import RatePolicy
from gateway.core.windows import Span
from gateway.findings import rule
from gateway.rule_files.policy_document import Document, PolicyDocument, one_of, read_mode

_Count = Annotated[int, Field(gt=0, le=10**12)]
_Usd = Annotated[float, Field(gt=0, le=1_000_000)]


def _timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        problem = f"{name!r} is not a time zone"
        raise rule(problem, "write it like Europe/Berlin, or UTC") from error
    return name


class AmountsDocument(Document):
    """Amounts of what calls use; one that is left out is not looked at."""

    tokens: _Count | None = None
    cost_usd: _Usd | None = None
    calls: _Count | None = None

    def amounts(self) -> Amounts:
        """Return the amounts as a value, money in whole nano-dollars."""
        usd = self.cost_usd
        nano_usd = None if usd is None else int(Decimal(str(usd)) * NANO_USD_PER_USD)
        return Amounts(tokens=self.tokens, nano_usd=nano_usd, calls=self.calls)


def _amounts(document: AmountsDocument | None) -> Amounts:
    return document.amounts() if document is not None else Amounts()


class SpendLimitDocument(PolicyDocument):
    """A policy of kind `spend_limit` as it stands in a file."""

    kind: Literal["spend_limit"]
    mode: Annotated[Mode, BeforeValidator(read_mode)]
    per: Annotated[LimitScope, one_of(LimitScope)] = LimitScope.KEY
    window: Annotated[Span, one_of(Span)] = Span.DAY
    timezone: Annotated[str, AfterValidator(_timezone)] = "UTC"
    soft: AmountsDocument | None = None
    hard: AmountsDocument | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if _amounts(self.soft) == _amounts(self.hard) == Amounts():
            raise rule("limits nothing", "state tokens, cost_usd or calls under hard or soft")
        for dimension, hard in _amounts(self.hard).items():
            soft = _amounts(self.soft).get(dimension)
            if hard is not None and soft is not None and soft >= hard:
                raise rule(
                    f"the soft line of {dimension.value} is not below the hard one",
                    "lower it, or leave it out",
                )
        return self

    def policy(self) -> SpendLimitPolicy:
        """Return the policy as a value."""
        return SpendLimitPolicy(
            **self.common(),
            per=self.per,
            window=self.window,
            timezone=self.timezone,
            soft=_amounts(self.soft),
            hard=_amounts(self.hard),
        )


class RateDocument(PolicyDocument):
    """A policy of kind `rate` as it stands in a file."""

    kind: Literal["rate"]
    effect: Annotated[Effect, one_of(Effect)] = Effect.REFUSE
    window_s: Annotated[int, Field(ge=1, le=86_400)] = 60
    limits: AmountsDocument | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if _amounts(self.limits) == Amounts():
            raise rule("limits nothing", "state tokens, cost_usd or calls under limits")
        return self

    def policy(self) -> RatePolicy:
        """Return the policy as a value."""
        return RatePolicy(
            **self.common(),
            effect=self.effect,
            window_s=self.window_s,
            limits=_amounts(self.limits),
        )
