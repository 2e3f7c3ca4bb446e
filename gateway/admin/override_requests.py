"""What `POST .../overrides` takes: one strict model per kind, and the error that names the field.

Nothing is converted that was not meant: `true`, `5.0` and `"5000"` are no numbers of tokens.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import ErrorDetails

from gateway.admin.answers import ApiError
from gateway.core.budget import NANO_USD_PER_USD, Amounts
from gateway.core.overrides import Override, OverrideKind
from gateway.core.phases import WorkPhase, allowed_terms, parse_term
from gateway.findings import explain, rule, suggestion

MOST_UNITS = 1_000_000_000_000
MOST_USD = 100_000
MOST_FACTOR = 10
MOST_SECONDS = 31_536_000
_APPROVER_CHARACTERS = 200
_REASON_CHARACTERS = 2_000
# Decimals with so few digits keep every product exact and short (`rule_files/fields.py`).
_MOST_DIGITS = 20
USD_DIGITS = 9
_DECIMAL = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?")


def decimal_of(value: object) -> Decimal:
    """Return a number, or a string that is one, exactly. Raises `findings.rule`."""
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        return Decimal(value)
    if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        return Decimal(value)
    raise rule("must be a number", 'write it like 12.5 or "12.5"')


def within(value: Decimal, most: int, places: int, *, may_be_zero: bool = False) -> Decimal:
    """Return a number that is in range and has no more decimal places. Raises `findings.rule`."""
    if not 0 <= value <= most or (value == 0 and not may_be_zero):
        above = "0 or above" if may_be_zero else "above 0"
        raise rule(f"must be {above} and at most {most:,}", "choose such a number")
    _, digits, exponent = value.as_tuple()
    if len(digits) > _MOST_DIGITS or -int(exponent) > places:
        raise rule(f"has more than {places} decimal places", "round it")
    return value


def _cost(value: object) -> Decimal:
    return within(decimal_of(value), MOST_USD, USD_DIGITS)


def _factor(value: object) -> Decimal:
    return within(decimal_of(value), MOST_FACTOR, _MOST_DIGITS)


def _phase(value: object) -> WorkPhase:
    if not isinstance(value, str):
        raise rule("must be the name of a phase", f"choose one of {allowed_terms(WorkPhase)}")
    phase = parse_term(WorkPhase, value)
    if phase is None:
        words = [known.value for known in WorkPhase]
        raise rule("is not a phase", suggestion(value, words))
    return phase


def _approver(value: str) -> str:
    if not value.strip():
        raise rule("is empty", "name who approved this")
    if len(value) > _APPROVER_CHARACTERS:
        raise rule(f"is longer than {_APPROVER_CHARACTERS} characters", "shorten it")
    if not value.isprintable():
        raise rule("has control characters", "write one line of plain text")
    return value.strip()


def _reason(value: str) -> str:
    if not value.strip():
        raise rule("is empty", "say why this is needed")
    if len(value) > _REASON_CHARACTERS:
        raise rule(f"is longer than {_REASON_CHARACTERS:,} characters", "shorten it")
    if not "".join(value.split()).isprintable():
        raise rule("has control characters", "write plain text")
    return value.strip()


def _number_schema(most: int) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "maximum": most},
                {"type": "string", "pattern": f"^{_DECIMAL.pattern}$"},
            ]
        }
    )


Units = Annotated[int, Field(gt=0, le=MOST_UNITS)]
Cost = Annotated[Decimal, BeforeValidator(_cost), _number_schema(MOST_USD)]
Factor = Annotated[Decimal, BeforeValidator(_factor), _number_schema(MOST_FACTOR)]
Phase = Annotated[
    WorkPhase,
    BeforeValidator(_phase),
    WithJsonSchema(
        {
            "type": "string",
            "enum": [phase.value for phase in WorkPhase],
            "description": "In any letter case.",
        }
    ),
]
Approver = Annotated[
    str,
    AfterValidator(_approver),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": _APPROVER_CHARACTERS}),
]
Reason = Annotated[
    str,
    AfterValidator(_reason),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": _REASON_CHARACTERS}),
]


class _Request(BaseModel):
    """What every kind needs: who, why, and for how long (for good, if nothing is said)."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True, strict=True)

    approver: Approver
    reason: Reason
    expires_in_s: Annotated[int, Field(ge=1, le=MOST_SECONDS)] | None = None


class _AmountsRequest(_Request):
    """A kind with amounts, of which at least one must be given."""

    tokens: Units | None = None
    latency_ms: Units | None = None
    cost_usd: Cost | None = None

    @model_validator(mode="after")
    def _has_an_amount(self) -> "_AmountsRequest":
        if self.tokens is None and self.latency_ms is None and self.cost_usd is None:
            raise rule(
                "at least one of tokens, cost_usd and latency_ms is required", "add an amount"
            )
        return self


class GrantRequest(_AmountsRequest):
    """An extra amount for the whole task, beside its limits; nothing multiplies it."""

    kind: Literal["grant"]


class PhaseLimitRequest(_AmountsRequest):
    """Absolute limits of one phase. They replace those that an earlier override set for it."""

    kind: Literal["phase_limit"]
    phase: Phase


class MultiplierRequest(_Request):
    """A factor for all limits of the task but absolute ones. Of several the latest holds."""

    kind: Literal["multiplier"]
    factor: Factor


class ResumeRequest(_Request):
    """An end to the trip as it is, without more room."""

    kind: Literal["resume"]


OverrideRequest = GrantRequest | PhaseLimitRequest | MultiplierRequest | ResumeRequest
OVERRIDE_REQUEST: TypeAdapter[OverrideRequest] = TypeAdapter(
    Annotated[OverrideRequest, Field(discriminator="kind")], config=ConfigDict(defer_build=True)
)
_MODELS: Mapping[str, type[_Request]] = {
    "grant": GrantRequest,
    "phase_limit": PhaseLimitRequest,
    "multiplier": MultiplierRequest,
    "resume": ResumeRequest,
}


def parse_override(body: object) -> OverrideRequest:
    """Return what a body asks for. Raises ApiError (`invalid_override`) naming the field."""
    try:
        return OVERRIDE_REQUEST.validate_python(body)
    except ValidationError as error:
        raise _invalid(error.errors(include_url=False)[0]) from None


def _invalid(error: ErrorDetails) -> ApiError:
    """Return the error answer for the first thing that is wrong."""
    kind, *place = map(str, error["loc"]) if error["loc"] else [""]
    if kind not in _MODELS:
        field, problem, remedy = "kind", *_unknown_kind(error)
    else:
        field = place[0] if place else "tokens"  # the rule on amounts is of no single one
        problem, remedy = _known_kind(error, kind, field)
    message = f"{field}: {problem}. Remedy: {remedy}."
    return ApiError(422, "invalid_override", message, field=field)


def _known_kind(error: ErrorDetails, kind: str, field: str) -> tuple[str, str]:
    known = [*_MODELS[kind].model_fields]
    if error["type"] == "extra_forbidden":
        return f"is not a field of a {kind} override", f"remove it; {suggestion(field, known)}"
    if isinstance(error["input"], Decimal):
        error["input"] = float(error["input"])  # for the message only: it reads as it was written
    return explain(error, known)


def _unknown_kind(error: ErrorDetails) -> tuple[str, str]:
    known = f"choose one of {', '.join(_MODELS)}"
    if error["type"] == "union_tag_invalid":
        return "is not a kind of override", known
    if error["type"] == "union_tag_not_found":
        return "is required", known
    return "the body must be a JSON object with a kind", known


def to_override(asked: OverrideRequest, now_ms: int) -> Override:
    """Return the override that is asked for, made at `now_ms`."""
    lasting_s = asked.expires_in_s
    return Override(
        kind=OverrideKind(asked.kind),
        approver=asked.approver,
        reason=asked.reason,
        created_ms=now_ms,
        expires_ms=None if lasting_s is None else now_ms + lasting_s * 1000,
        amounts=_amounts(asked) if isinstance(asked, _AmountsRequest) else Amounts(),
        phase=asked.phase if isinstance(asked, PhaseLimitRequest) else None,
        factor=asked.factor if isinstance(asked, MultiplierRequest) else None,
    )


def _amounts(asked: _AmountsRequest) -> Amounts:
    cost = asked.cost_usd
    nano_usd = None if cost is None else int(cost * NANO_USD_PER_USD)
    return Amounts(asked.tokens, asked.latency_ms, nano_usd)
