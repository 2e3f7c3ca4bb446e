"""`POST /admin/v1/breaches/{call}/false-positive`: was a block right? (PM2)"""

import asyncio
from typing import Literal

from aiohttp import web

from gateway.admin.act_requests import ActRequest, parse_request
from gateway.admin.answers import ApiError, json_answer, store_wait
from gateway.admin.auth import told_by
from gateway.admin.bodies import Body
from gateway.admin.body import read_json
from gateway.admin.corrections import call_id_of
from gateway.admin.parts import PARTS
from gateway.core.acts import Act
from gateway.core.errors import LedgerError
from gateway.core.statistics import VERDICT_ACTION, VERDICT_SUBJECT
from gateway.store.notes import note_act

Verdict = Literal["false_positive", "justified"]


class VerdictRequest(ActRequest):
    """What somebody judged, and why."""

    verdict: Verdict


class VerdictBody(Body):
    """What is now on record; the latest verdict of a call holds."""

    call: str
    verdict: Verdict
    approver: str


async def post_verdict(request: web.Request) -> web.Response:
    """Judge the block of a call; it may be judged anew."""
    call_id = call_id_of(request)
    asked = parse_request(VerdictRequest, await read_json(request))
    parts = request.app[PARTS]
    try:
        found = await asyncio.to_thread(
            parts.read_page, "breaches", parts.names.tenant, {"call_id": call_id}, None, 1
        )
    except LedgerError as error:
        message = f"The ledger cannot be read: {error}"
        raise ApiError(503, "ledger_unavailable", message, headers={"Retry-After": "2"}) from None
    if not found:
        message = (
            f"No line was crossed by the call {call_id}. Remedy: give the "
            "`call` of an entry of GET /admin/v1/breaches."
        )
        raise ApiError(404, "unknown_breach", message, field="call")
    act = Act(VERDICT_ACTION, asked.approver, asked.reason, {"verdict": asked.verdict})
    async with store_wait(request):
        subject = f"{VERDICT_SUBJECT}{call_id}"
        await note_act(parts.connection, parts.names, subject, told_by(request, act))
    parts.event("breach_judged", call=call_id, verdict=asked.verdict, by=asked.approver)
    return json_answer(VerdictBody(call=call_id, verdict=asked.verdict, approver=asked.approver))
