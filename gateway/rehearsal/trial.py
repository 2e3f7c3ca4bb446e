"""One call, from what is said of it to the decision that it would get."""

import json
from collections.abc import Awaitable, Callable

from msgspec import Struct

from gateway.call import Call, read_call, with_cheaper_model
from gateway.clamp import decision_on
from gateway.core.admission import Verdict
from gateway.core.decision import Decision, Outcome, Receipt
from gateway.core.dialects.wire_format import ModelRequest
from gateway.core.errors import CallError
from gateway.core.estimate import InputEstimate
from gateway.core.identity import identify
from gateway.core.keys import GatewayKey, forbidden, tags_under, tags_without_key
from gateway.core.match import DEFAULT_TENANT
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.first_facts import facts_alone
from gateway.planner import Plan, Planner
from gateway.ports import Request, StalePhase, TaskFacts

Ask = Callable[[Plan], Awaitable[Receipt]]
"""Gives the store's answer to a plan."""


class CallSaid(Struct, frozen=True):
    """What is said of a call. Without a task it is untagged; `output_tokens` None: no ceiling.

    `keys_in_use` tells what a call without a `key` may not claim.
    """

    task: str | None
    phase: WorkPhase | None = None
    complexity: Complexity | None = None
    importance: ImportanceTier | None = None
    asks_grace: bool = False
    key: GatewayKey | None = None
    model: str = ""
    method: str = "POST"
    path: str = "/v1/chat/completions"
    input_tokens: int = 0
    output_tokens: int | None = None
    tenant: str = DEFAULT_TENANT
    keys_in_use: bool = False


class Tried(Struct, frozen=True):
    """The decision. What was planned and answered last is None where it did not come to that."""

    decision: Decision
    call: Call | None = None
    plan: Plan | None = None
    receipt: Receipt | None = None


async def try_call(said: CallSaid, facts: TaskFacts | None, planner: Planner, ask: Ask) -> Tried:
    """Return what becomes of a call of a task with these facts, None for a new one."""
    try:
        call = _read(said)
        if facts is None:
            facts = facts_alone(call, planner)
        if call.asked is None:
            return Tried(planner.decide_unmetered(call, facts), call)
        return await _try_metered(call, call.asked, said.input_tokens, facts, planner, ask)
    except CallError as error:
        return Tried(Decision(Outcome.REFUSE, code=error.code, message=error.message))


async def _try_metered(
    call: Call,
    asked: ModelRequest,
    input_tokens: int,
    facts: TaskFacts,
    planner: Planner,
    ask: Ask,
) -> Tried:
    estimate = InputEstimate(input_tokens, input_tokens, input_tokens)
    plan = planner.plan(call, asked, facts, estimate)
    try:
        receipt = await ask(plan)
    except StalePhase as stale:
        planner.note_phase(call.task, stale.phase)
        plan = planner.plan(call, asked, facts, estimate)
        receipt = await ask(plan)
    if receipt.verdict is Verdict.SOFT:
        cheaper = with_cheaper_model(call, plan.shape.cheaper_model)
        if cheaper is not None and cheaper.asked is not None:
            call = cheaper
            plan = planner.plan(cheaper, cheaper.asked, facts, estimate)
            receipt = await ask(plan)
    return Tried(decision_on(call, plan, receipt), call, plan, receipt)


def _read(said: CallSaid) -> Call:
    """Return the call as it would be read. Raises CallError for one that would be turned away."""
    named = {
        "Id": said.task,
        "Phase": said.phase,
        "Complexity": said.complexity,
        "Importance": said.importance,
        "Grace": "1" if said.asks_grace else None,
    }
    headers = [(f"X-Task-{name}".encode(), text.encode()) for name, text in named.items() if text]
    body: dict[str, object] = {"model": said.model, "messages": []}
    if said.output_tokens is not None:
        body["max_completion_tokens"] = said.output_tokens
    target = said.path.encode()
    request = Request(
        said.method.encode(), target, headers, json.dumps(body).encode(), received_at=0.0
    )
    tags, route = identify(target, request.headers)
    if said.key is not None:
        tags = tags_under(said.key, tags)
    else:
        tags = tags_without_key(tags, keys_in_use=said.keys_in_use)
    call = read_call("trial", request, tags, route, key=said.key, tenant=said.tenant)
    if said.key is not None and call.asked is not None:
        error = forbidden(said.key, call.route.upstream, *call.models)
        if error is not None:
            raise error
    return call
