"""`POST /admin/v1/policies/dry-run`: what a call would be told now. Nothing is held or counted.

The call is planned and decided as on the data path, and the store is asked by the data path's own
script, which only looks. Of loops it tells whether one has stopped the task: how often a call was
made before hangs on its body.
"""

import secrets
from dataclasses import replace
from typing import Annotated, Literal

from aiohttp import web
from msgspec import structs
from pydantic import BaseModel, ConfigDict, Field

from gateway.admin.act_requests import KeyId, parse_request
from gateway.admin.answers import json_answer, store_wait
from gateway.admin.bodies import Body, BreachBody
from gateway.admin.body import read_json
from gateway.admin.override_requests import Phase
from gateway.admin.parts import PARTS, AdminParts
from gateway.admin.registration_requests import ComplexityTier, Importance, TaskId
from gateway.admin.supposed import paying_key, planner_now
from gateway.admin.views import breach_body
from gateway.core.decision import Receipt
from gateway.core.keys import GatewayKey
from gateway.core.phases import Complexity, ImportanceTier
from gateway.core.prices import ModelPrice
from gateway.planner import Plan, Planner
from gateway.ports import TaskFacts
from gateway.rehearsal.trial import CallSaid, Tried, try_call
from gateway.store.key_store import KeyStore
from gateway.store.redis_store import RedisStore
from gateway.store.registration import facts_of

_MOST_TOKENS = 100_000_000
Tokens = Annotated[int, Field(ge=0, le=_MOST_TOKENS)]
_ANY_MODEL = "any-model"  # of a call that names none
_FREE = ModelPrice(0, 0, 0, 0)


class DryRunRequest(BaseModel):
    """A call. Tiers are for a task that is not there yet, as its call would name them.

    Without them it has those that the roadmap or its key gives it. `key` is the id of the key that
    pays.

    Without `output_tokens` the call names no ceiling; without a `model` its tokens cost nothing.
    """

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True, strict=True)

    task: TaskId
    phase: Phase | None = None
    complexity: ComplexityTier | None = None
    importance: Importance | None = None
    model: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    input_tokens: Tokens = 0
    output_tokens: Tokens | None = None
    key: KeyId | None = None
    grace: bool = False
    path: Annotated[str, Field(pattern=r"^/[\x21-\x7e]{1,255}$")] = "/v1/chat/completions"

    @property
    def said(self) -> CallSaid:
        """Return the call, without its key."""
        return CallSaid(
            self.task,
            self.phase,
            self.complexity,
            self.importance,
            self.grace,
            None,
            self.model or _ANY_MODEL,
            path=self.path,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
        )


class DryRunBody(Body):
    """The decision that the call would get. `clamp` is the output that its budget would pay for.

    `phase` is the one that the call would count in, `model` the one that would be asked for.
    """

    task: str
    phase: str | None
    task_exists: bool
    decision: Literal["allow", "flag", "refuse"]
    would_refuse: bool
    code: str | None
    message: str | None
    retryable: bool
    clamp: int | None
    model: str | None
    grace: Literal["offered", "short", "used", "admitted"] | None
    policy: str
    mode: Literal["off", "observe", "enforce"]
    policy_hash: str
    breaches: list[BreachBody]


async def post_dry_run(request: web.Request) -> web.Response:
    """Decide as for a call, on balances as they are."""
    asked, parts = parse_request(DryRunRequest, await read_json(request)), request.app[PARTS]
    async with store_wait(request):
        known = await facts_of(parts.connection, parts.names, asked.task)
        planner = await _planner(parts)
        said = await _said(parts, asked)
        store = RedisStore(parts.connection)

        async def look(plan: Plan) -> Receipt:
            no_call = f"dry-run-{secrets.token_hex(12)}"
            return await store.look(structs.replace(plan.reserve, call_id=no_call))

        tried = await try_call(said, known, planner, look)
    facts = known or TaskFacts(
        asked.complexity or Complexity.MEDIUM, asked.importance or ImportanceTier.MEDIUM
    )
    return json_answer(_body(asked, tried, facts, planner, task_exists=known is not None))


async def _planner(parts: AdminParts) -> Planner:
    """Return a planner under the rules in force, which know a model that costs nothing."""
    rules = parts.rules()
    models = {**rules.prices.models, _ANY_MODEL: _FREE}
    return await planner_now(parts, replace(rules, prices=replace(rules.prices, models=models)))


async def _said(parts: AdminParts, asked: DryRunRequest) -> CallSaid:
    """Return the call with its key, or whether there are any."""
    key, tenant = await _key(parts, asked), parts.names.tenant
    in_use = key is not None or await KeyStore(parts.connection).has_any(parts.names)
    return structs.replace(asked.said, key=key, keys_in_use=in_use, tenant=tenant)


async def _key(parts: AdminParts, asked: DryRunRequest) -> GatewayKey | None:
    """Return the key that pays; whether it allows a model is asked where the call names one."""
    key = await paying_key(parts, asked.key)
    return key if key is None or asked.model else structs.replace(key, models=())


def _body(
    asked: DryRunRequest, tried: Tried, facts: TaskFacts, planner: Planner, *, task_exists: bool
) -> DryRunBody:
    decision, receipt, call = tried.decision, tried.receipt, tried.call
    policies = planner.rules.policies
    policy = policies.stop_loss_for(facts.complexity, facts.importance)
    if tried.plan is not None:
        policy = tried.plan.policy
    phase = receipt.phase if receipt is not None else asked.phase
    model = call.model if call is not None else None
    grace = receipt.grace if receipt is not None else None
    return DryRunBody(
        task=asked.task,
        phase=phase.value if phase else None,
        task_exists=task_exists,
        decision=decision.outcome.value,
        would_refuse=decision.would_refuse,
        code=decision.code or None,
        message=decision.message or None,
        retryable=decision.retryable,
        clamp=decision.clamp,
        model=model if model != _ANY_MODEL else None,
        grace=grace.value if grace is not None else None,
        policy=policy.name,
        mode=planner.mode_of(policy).value,
        policy_hash=policies.policy_hash,
        breaches=[breach_body(breach) for breach in decision.breaches],
    )
