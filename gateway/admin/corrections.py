"""`POST /admin/v1/calls/{call}/correct`: what a call was charged is mended, on record.

An operator does that where an expired call was charged its hold, or an estimate was far off. The
amounts are those that the call shall have been charged, so a repetition changes nothing.
"""

import asyncio
from decimal import Decimal
from typing import Annotated

from aiohttp import web
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from gateway.admin.act_requests import parse_request
from gateway.admin.answers import ApiError, json_answer, store_wait
from gateway.admin.auth import told_by
from gateway.admin.bodies import CallChargeBody, CallCorrectedBody
from gateway.admin.body import read_json
from gateway.admin.override_requests import USD_DIGITS, Approver, Reason, decimal_of, within
from gateway.admin.parts import PARTS
from gateway.admin.tasks import read_back
from gateway.admin.views import task_body, usd
from gateway.core.acts import Act
from gateway.core.budget import NANO_USD_PER_USD
from gateway.core.errors import LedgerError
from gateway.core.identity import ID_PATTERN
from gateway.core.usage import MOST_TOKENS
from gateway.store.correction import (
    CallOpen,
    Charge,
    LedgerBehind,
    correct_charge,
    knows_ended,
)

_MOST_USD = 10_000  # what the store takes for the most that one call can cost
_SHOWN_CHARACTERS = 130
_UNCHARGED = {"refused", "released"}


def _cost(value: object) -> Decimal:
    return within(decimal_of(value), _MOST_USD, USD_DIGITS, may_be_zero=True)


Cost = Annotated[
    Decimal,
    BeforeValidator(_cost),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": _MOST_USD},
                {"type": "string", "pattern": r"^[0-9]{1,5}(\.[0-9]{1,9})?$"},
            ]
        }
    ),
]


class CorrectRequest(BaseModel):
    """What the call shall have been charged: budget tokens, money, or both; who says so and why."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True, strict=True)

    tokens: Annotated[int, Field(ge=0, le=MOST_TOKENS)] | None = None
    cost_usd: Cost | None = None
    approver: Approver
    reason: Reason


async def post_correction(request: web.Request) -> web.Response:
    """Charge a call that has ended other amounts; balances follow at once."""
    call_id = call_id_of(request)
    asked = parse_request(CorrectRequest, await read_json(request))
    if asked.tokens is None and asked.cost_usd is None:
        message = "tokens: at least one of tokens and cost_usd is required. Remedy: add an amount."
        raise ApiError(422, "invalid_request", message, field="tokens")
    try:
        async with store_wait(request):
            before = await _charge(request, call_id)
            after, changed = await _correct(request, before, asked)
    except CallOpen as error:
        message = f"{error}. Remedy: wait for its end; it is settled by itself."
        raise ApiError(409, "call_open", message, field="call") from None
    except LedgerBehind as error:
        message = f"{error}; nothing was changed. Remedy: repeat this shortly."
        raise ApiError(503, "ledger_behind", message, headers={"Retry-After": "2"}) from None
    if changed:
        _tell(request, before, asked)
    view = None if before.task.startswith("-") else await read_back(request, before.task)
    return json_answer(
        CallCorrectedBody(
            call=call_id,
            changed=changed,
            before=_charge_body(before.tokens, before.nano_usd),
            after=after,
            task=task_body(view) if view else None,
        )
    )


async def _charge(request: web.Request, call_id: str) -> Charge:
    """Return what the call was charged. Raises ApiError, CallOpen, LedgerBehind."""
    parts = request.app[PARTS]
    is_known = await knows_ended(parts.connection, parts.names, call_id)
    try:
        charge = await asyncio.to_thread(parts.read_charge, parts.names.tenant, call_id)
    except LedgerError as error:
        message = f"The ledger cannot be read: {error}"
        raise ApiError(503, "ledger_unavailable", message, headers={"Retry-After": "2"}) from None
    if charge is None and is_known:
        raise LedgerBehind(call_id)
    if charge is None:
        raise ApiError(
            404,
            "unknown_call",
            f"there is no call {call_id}. Remedy: x-tollgate-call-id of its answer names it; calls "
            "that retention has deleted cannot be corrected.",
            field="call",
        )
    if charge.state in _UNCHARGED:
        message = f"call {call_id} was {charge.state}: nothing was charged. Remedy: name another."
        raise ApiError(409, "wrong_state", message, field="call")
    return charge


async def _correct(
    request: web.Request, before: Charge, asked: CorrectRequest
) -> tuple[CallChargeBody, bool]:
    """Return what the call is charged now, and whether that is new."""
    parts = request.app[PARTS]
    tokens = before.tokens if asked.tokens is None else asked.tokens
    nano_usd = before.nano_usd
    if asked.cost_usd is not None:
        nano_usd = int(asked.cost_usd * NANO_USD_PER_USD)
    details = {
        "tokens_before": str(before.tokens),
        "tokens": str(tokens),
        "nano_usd_before": _text(before.nano_usd),
        "nano_usd": _text(nano_usd),
    }
    act = told_by(request, Act("call.correct", asked.approver, asked.reason, details))
    changed = await correct_charge(parts.connection, parts.names, before, tokens, nano_usd, act)
    return _charge_body(tokens, nano_usd), changed


def _tell(request: web.Request, charge: Charge, asked: CorrectRequest) -> None:
    request.app[PARTS].event(
        "call_corrected",
        "warning",
        call_id=charge.call_id,
        task=charge.task,
        approver=asked.approver,
        reason=" ".join(asked.reason.split()),
    )


def _charge_body(tokens: int, nano_usd: int | None) -> CallChargeBody:
    cost_usd = None if nano_usd is None else usd(nano_usd)
    return CallChargeBody(tokens=tokens, cost_usd=cost_usd, nano_usd=nano_usd)


def _text(nano_usd: int | None) -> str:
    return "-" if nano_usd is None else str(nano_usd)


def call_id_of(request: web.Request) -> str:
    """Return the id of the call that the path names. Raises ApiError (`invalid_call_id`)."""
    call_id = request.match_info["call"]
    if ID_PATTERN.fullmatch(call_id):
        return call_id
    raise ApiError(
        400,
        "invalid_call_id",
        f"{call_id[:_SHOWN_CHARACTERS]!r} cannot be a call's id. Remedy: take it from "
        "x-tollgate-call-id of the call's answer.",
        field="call",
    )
