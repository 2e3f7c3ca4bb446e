"""`POST .../gate`: the orchestrator asks whether a task may leave a phase."""

import secrets

from aiohttp import web
from msgspec import structs

from gateway.admin.act_requests import GateRequest, parse_request
from gateway.admin.answers import ApiError, json_answer, store_wait
from gateway.admin.auth import own_token
from gateway.admin.bodies import GateBody
from gateway.admin.body import read_json
from gateway.admin.parts import PARTS, AdminParts
from gateway.admin.reports import report_path
from gateway.admin.roles import MAIN_TOKEN
from gateway.admin.tasks import task_id_of
from gateway.admin.views import breach_body
from gateway.core.acts import Act
from gateway.core.admission import Need
from gateway.core.amendments import amended
from gateway.core.call_facts import CallAbout
from gateway.core.decision import (
    Decision,
    Outcome,
    Receipt,
    decide,
    effects_of,
    remediation_task,
)
from gateway.core.errors import StoreError
from gateway.core.gate import gate_starts_at, mode_in_force
from gateway.core.loops import plan_loop
from gateway.core.phases import WorkPhase
from gateway.core.policy import Mode, ReserveKind, StopLossPolicy, first_match
from gateway.ports import ReservePlan, TaskFacts
from gateway.store.enforcement import read_switch
from gateway.store.limits import UnknownTask
from gateway.store.notes import note_act
from gateway.store.redis_store import RedisStore
from gateway.store.registration import facts_of

_NOTHING = Need(0, 0, 0, 0, 0, 0)
_STATES = ("task_killed", "task_blocked")


async def post_gate(request: web.Request) -> web.Response:
    """Decide as for a call; a refusal is 409, counts as an attempt, and may trip the task."""
    task_id, asked = task_id_of(request), parse_request(GateRequest, await read_json(request))
    parts = request.app[PARTS]
    async with store_wait(request):
        facts = await facts_of(parts.connection, parts.names, task_id)
        if facts is None:
            raise UnknownTask(task_id)
        rules = parts.rules()
        policy = rules.policies.stop_loss_for(facts.complexity, facts.importance)
        switch = await read_switch(parts.connection, parts.names)
        off = (
            bool(switch) or parts.plane.enforcement_disabled or not rules.budgets.stop_loss.enabled
        )
        mode = mode_in_force(policy, switched_off=off)
        loops = first_match(rules.policies.loop, facts.complexity, facts.importance)
        loop = plan_loop(loops, mode_in_force(loops, switched_off=off), "") if loops else None
        plan = _plan(parts, task_id, facts, asked, policy, mode)
        plan = structs.replace(plan, loop=loop, switch=switch)
        receipt = await RedisStore(parts.connection).gate(plan)
    decision = amended(decide(receipt, policy, mode, 0), receipt, loop=loop)
    _tell(parts, task_id, receipt)
    if decision.refuses:
        raise _refusal(task_id, receipt, decision)
    if asked.leaving is WorkPhase.VERIFY and parts.read_report is not None:
        await _ask_for_report(request, task_id)
    return json_answer(
        GateBody(
            task=task_id,
            phase=asked.leaving.value,
            to=asked.to.value if asked.to else None,
            decision="flag" if decision.outcome is Outcome.FLAG else "allow",
            would_refuse=decision.would_refuse,
            policy=policy.name,
            mode=mode.value,
            breaches=[breach_body(breach) for breach in decision.breaches],
        )
    )


def _plan(
    parts: AdminParts,
    task_id: str,
    facts: TaskFacts,
    asked: GateRequest,
    policy: StopLossPolicy,
    mode: Mode,
) -> ReservePlan:
    return ReservePlan(
        call_id=f"gate-{secrets.token_hex(12)}",
        tenant=parts.names.tenant,
        task=task_id,
        facts=facts,
        limits=None,
        phase=asked.leaving,
        enforce_from=gate_starts_at(policy, asked.leaving, asked.to),
        kind=ReserveKind.NONE,
        effects=effects_of(policy, mode),
        need=_NOTHING,
        about=CallAbout(
            method="POST",
            path="gate",
            complexity=facts.complexity.value,
            importance=facts.importance.value,
            policy=policy.name,
            mode=mode.value,
        ),
    )


async def _ask_for_report(request: web.Request, task_id: str) -> None:
    """Put the passed gate on record, from which the report follows; the gate is open anyway."""
    parts = request.app[PARTS]
    act = Act("gate.pass", own_token(request) or MAIN_TOKEN, "", {"phase": "VERIFY"})
    try:
        async with store_wait(request):
            await note_act(parts.connection, parts.names, f"task:{task_id}", act)
    except StoreError as error:
        parts.event("report_not_asked_for", "error", task=task_id, error=str(error))


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


def _refusal(task_id: str, receipt: Receipt, decision: Decision) -> ApiError:
    if decision.code in _STATES:
        return ApiError(409, "wrong_state", decision.message, field="id")
    stopped = receipt.stop_scope.name if receipt.stop_scope else task_id
    episode = receipt.episode
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
    )
