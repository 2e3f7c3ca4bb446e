"""`POST .../gate`: the orchestrator asks whether a task may leave a phase."""

import secrets
from typing import Any

from aiohttp import web

from gateway.admin.act_requests import GateRequest, parse_request
from gateway.admin.answers import ApiError, json_answer, store_wait
from gateway.admin.auth import own_token
from gateway.admin.bodies import GateBody
from gateway.admin.body import read_json
from gateway.admin.parts import PARTS, AdminParts
from gateway.admin.reports import report_path
from gateway.admin.roles import MAIN_TOKEN
from gateway.admin.supposed import paying_key, planner_now
from gateway.admin.tasks import task_id_of
from gateway.admin.views import breach_body
from gateway.clamp import decision_on
from gateway.core.acts import Act
from gateway.core.admission import ScopeKind
from gateway.core.decision import Decision, Outcome, Receipt
from gateway.core.errors import StoreError
from gateway.core.gate import Gate
from gateway.core.remediation import remediation_task
from gateway.planner import Plan
from gateway.store.limits import UnknownTask
from gateway.store.notes import note_act
from gateway.store.redis_store import RedisStore
from gateway.store.registration import facts_of

_STATES = ("task_killed", "task_blocked")
_LINES = ("task_budget_exceeded", "runaway_task")
_TASKS = (ScopeKind.TASK, ScopeKind.PARENT)


async def post_gate(request: web.Request) -> web.Response:
    """Decide as for a call; a refusal is 409, counts as an attempt, and may trip the task."""
    task_id, asked = task_id_of(request), parse_request(GateRequest, await read_json(request))
    parts = request.app[PARTS]
    async with store_wait(request):
        plan = await _plan(parts, task_id, asked)
        receipt = await RedisStore(parts.connection).gate(plan.reserve)
    decision = decision_on(None, plan, receipt)
    _tell(parts, task_id, receipt)
    if decision.refuses:
        raise _refusal(task_id, plan, receipt, decision)
    body = _body(task_id, asked, plan, decision)
    await _put_on_record(request, body, asked.key)
    return json_answer(body)


async def _plan(parts: AdminParts, task_id: str, asked: GateRequest) -> Plan:
    """Return what is asked of the store. Raises UnknownTask, ApiError, StoreError."""
    facts = await facts_of(parts.connection, parts.names, task_id)
    if facts is None:
        raise UnknownTask(task_id)
    key = await paying_key(parts, asked.key)
    planner = await planner_now(parts, parts.rules())
    gate = Gate(task_id, asked.leaving, asked.to, key, parts.names.tenant)
    return planner.plan_gate(gate, f"gate-{secrets.token_hex(12)}", facts)


def _body(task_id: str, asked: GateRequest, plan: Plan, decision: Decision) -> GateBody:
    about = plan.reserve.about
    return GateBody(
        task=task_id,
        phase=asked.leaving.value,
        to=asked.to.value if asked.to else None,
        decision="allow" if decision.outcome is Outcome.ALLOW else "flag",
        would_refuse=decision.would_refuse,
        policy=plan.policy.name,
        mode=plan.mode.value,
        policy_hash=about.policy_hash,
        config_hash=about.config_hash,
        breaches=[breach_body(breach) for breach in decision.breaches],
    )


async def _put_on_record(request: web.Request, body: GateBody, key: str | None) -> None:
    """Put the passed gate on record; behind VERIFY a report follows. It is open anyway."""
    parts = request.app[PARTS]
    names = ("phase", "to", "decision", "policy", "mode", "policy_hash", "config_hash")
    details = {name: text for name in names if (text := getattr(body, name))}
    if key is not None:
        details["key"] = key
    act = Act("gate.pass", own_token(request) or MAIN_TOKEN, "", details)
    try:
        async with store_wait(request):
            await note_act(parts.connection, parts.names, f"task:{body.task}", act)
    except StoreError as error:
        parts.event("gate_not_noted", "error", task=body.task, error=str(error))


def _tell(parts: AdminParts, task_id: str, receipt: Receipt) -> None:
    if receipt.tripped_now and receipt.stop_scope is not None:
        name = receipt.stop_scope.name
        parts.event(
            "stop_loss_tripped",
            "error",
            task=name,
            gate_of=task_id,
            code=receipt.stop_code,
            remediation=remediation_task(name, receipt.episode),
        )


def _refusal(task_id: str, plan: Plan, receipt: Receipt, decision: Decision) -> ApiError:
    about = plan.reserve.about
    hashes: dict[str, Any] = {"policy_hash": about.policy_hash, "config_hash": about.config_hash}
    if decision.code in _STATES:
        return ApiError(409, "wrong_state", decision.message, field="id", **hashes)
    scope = receipt.stop_scope
    stopped = scope.name if scope is not None and scope.kind in _TASKS else task_id
    episode = receipt.episode if decision.code in _LINES else 0
    return ApiError(
        409,
        "BudgetExceeded",
        decision.message,
        reason=decision.code,
        task=task_id,
        episode=episode,
        remediation=remediation_task(stopped, episode) if episode else None,
        report=report_path(stopped),
        breaches=[breach_body(breach).model_dump() for breach in decision.breaches],
        **hashes,
    )
