"""`/admin/v1/enforcement`: switch all enforcement off, and on again, while the gateways run."""

from typing import Annotated

from aiohttp import web
from pydantic import Field

from gateway.admin.act_requests import ActRequest, parse_request
from gateway.admin.answers import json_answer, store_wait
from gateway.admin.auth import told_by
from gateway.admin.bodies import Body
from gateway.admin.body import read_json
from gateway.admin.override_requests import MOST_SECONDS
from gateway.admin.parts import PARTS, AdminParts
from gateway.core.acts import Act
from gateway.core.enforcement import SwitchedOff, switched_off
from gateway.core.policy_base import Mode
from gateway.store.enforcement import read_switch, switch_enforcement


class EnforcementRequest(ActRequest):
    """Off, perhaps for a while only, or on."""

    enabled: bool
    expires_in_s: Annotated[int, Field(ge=1, le=MOST_SECONDS)] | None = None


class SwitchedOffBody(Body):
    """Who switched enforcement off, why, and until when; no end is null."""

    approver: str
    reason: str
    token: str | None
    since_ms: int
    until_ms: int | None


class EnforcementBody(Body):
    """Whether policies in mode enforce refuse anything here, and what keeps them from it if not."""

    enforcing: bool
    switched_off: SwitchedOffBody | None
    disabled_by_environment: bool
    stop_loss_enabled: bool


async def get_enforcement(request: web.Request) -> web.Response:
    """Return how the switch stands."""
    parts = request.app[PARTS]
    async with store_wait(request):
        text = await read_switch(parts.connection, parts.names)
    return json_answer(_body(parts, switched_off(text)))


async def post_enforcement(request: web.Request) -> web.Response:
    """Switch it; that holds for the very next call on every gateway, and is on record."""
    asked, parts = parse_request(EnforcementRequest, await read_json(request)), request.app[PARTS]
    lasting_s = None if asked.enabled else asked.expires_in_s
    details = {} if lasting_s is None else {"expires_in_s": str(lasting_s)}
    action = "enforcement.on" if asked.enabled else "enforcement.off"
    act = told_by(request, Act(action, asked.approver, asked.reason, details))
    async with store_wait(request):
        off = await switch_enforcement(
            parts.connection, parts.names, act, enabled=asked.enabled, lasting_s=lasting_s
        )
    parts.event(
        "enforcement_switched_off" if off else "enforcement_switched_on",
        "critical" if off else "warning",
        approver=asked.approver,
        reason=" ".join(asked.reason.split()),
        expires_in_s=lasting_s,
    )
    return json_answer(_body(parts, off))


def _enforces(parts: AdminParts) -> bool:
    """Return whether there is anything in force here that refuses."""
    rules = parts.rules()
    is_on = rules.budgets.stop_loss.enabled and not parts.plane.enforcement_disabled
    return is_on and any(policy.mode is Mode.ENFORCE for policy in rules.policies.stop_loss)


def _body(parts: AdminParts, off: SwitchedOff | None) -> EnforcementBody:
    enabled = parts.rules().budgets.stop_loss.enabled
    said = None
    if off is not None:
        said = SwitchedOffBody(
            approver=off.approver,
            reason=off.reason,
            token=off.token,
            since_ms=off.since_ms,
            until_ms=off.until_ms,
        )
    return EnforcementBody(
        enforcing=_enforces(parts) and off is None,
        switched_off=said,
        disabled_by_environment=parts.plane.enforcement_disabled,
        stop_loss_enabled=enabled,
    )
