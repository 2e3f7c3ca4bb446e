"""A gate and a call are decided alike: same task, phase, key and state, whatever the policies."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import count, product
from typing import Any

import pytest
from msgspec import structs

from gateway.admin.views import breach_body
from gateway.core.budget import Amounts
from gateway.core.configuration import DataPlane, Rules
from gateway.core.decision import Receipt
from gateway.core.estimate import LearnedOutput
from gateway.core.keys import GatewayKey
from gateway.core.match import CallMatch
from gateway.core.phases import ImportanceTier, WorkPhase
from gateway.core.policy import Match, Mode, PolicySet, StopLossPolicy
from gateway.core.prices import ModelPrice, PriceTable
from gateway.core.spend_limits import LimitScope, SpendLimitPolicy
from gateway.core.velocity import RatePolicy
from gateway.planner import Plan, Planner
from gateway.rehearsal.trial import CallSaid, Tried, try_call
from gateway.store.key_store import KeyStore
from tests.admin.plane import RULES, Answer, Plane, StartPlane
from tests.store.agent import FACTS, Agent, settlement

FREE = PriceTable({"m": ModelPrice(0, 0, 0, 0)})
ON_VERIFY = Match(calls=(CallMatch(phase=frozenset({WorkPhase.VERIFY})),))
ON_TASK = Match(calls=(CallMatch(task=frozenset({"T*"})),))
ON_KEY = Match(calls=(CallMatch(key=frozenset({"ci"})),))
ON_TEAM = Match(calls=(CallMatch(team=frozenset({"core"})),))
ON_TIER = Match(importance=frozenset({ImportanceTier.MEDIUM}))
ON_ANOTHER_TIER = Match(importance=frozenset({ImportanceTier.LOW}))
MATCHES = [ON_VERIFY, ON_TASK, ON_KEY, ON_TEAM, ON_TIER, ON_ANOTHER_TIER]
ENFORCE = StopLossPolicy("enforcing", Mode.ENFORCE)
OBSERVE = StopLossPolicy("observing", Mode.OBSERVE)
A_FEW = Amounts(tokens=20_000)

POLICIES: Mapping[str, PolicySet] = {
    "enforcing": PolicySet((ENFORCE,)),
    "observing": PolicySet((OBSERVE,)),
    "any phase": PolicySet((replace(ENFORCE, enforce_from=None),)),
    **{
        f"{kind} {at}": policies
        for at, match in enumerate(MATCHES)
        for kind, policies in {
            "stop-loss": PolicySet((replace(ENFORCE, match=match), OBSERVE)),
            "velocity": PolicySet(
                (OBSERVE,), rate=(RatePolicy("fast", Mode.ENFORCE, match, limits=A_FEW),)
            ),
            "spend limit": PolicySet(
                (OBSERVE,),
                spend_limit=(
                    SpendLimitPolicy("day", Mode.ENFORCE, match, LimitScope.TENANT, hard=A_FEW),
                ),
            ),
        }.items()
    },
    "per key": PolicySet(spend_limit=(SpendLimitPolicy(mode=Mode.ENFORCE, hard=A_FEW),)),
    "per team": PolicySet(
        spend_limit=(SpendLimitPolicy(mode=Mode.ENFORCE, per=LimitScope.TEAM, hard=A_FEW),)
    ),
    "soft": PolicySet(spend_limit=(SpendLimitPolicy(soft=A_FEW, hard=A_FEW),)),
}

_numbers = count(1)


class Caller:
    """Makes calls of task T, as a worker decides them."""

    def __init__(self, agent: Agent, rules: Rules) -> None:
        self._store, self._tenant = agent.store, agent.tenant
        self._planner = Planner(DataPlane("", tenant=agent.tenant), rules, LearnedOutput())

    async def call(self, phase: str, key: GatewayKey | None, tokens: int | None = None) -> Tried:
        """Make a call that uses `tokens`; without them nothing of it is sent."""

        async def ask(plan: Plan) -> Receipt:
            reserve = structs.replace(plan.reserve, call_id=f"agreeing-{next(_numbers)}")
            receipt = await self._store.reserve(reserve)
            if receipt.verdict.value == "held" and tokens is None:
                await self._store.release(reserve)
            if tokens is not None:
                await self._store.settle(settlement(reserve, tokens))
            return receipt

        said = CallSaid("T", WorkPhase(phase), key=key, model="m", tenant=self._tenant)
        return await try_call(said, FACTS, self._planner, ask)


async def key_of(admin: Plane) -> GatewayKey:
    made = await admin.ask("POST", "/admin/v1/keys", json={"name": "ci", "team": "core"})
    key = await KeyStore(admin.parts.connection).read(made.json["id"])
    assert key is not None
    return key


def told_by_gate(answer: Answer) -> tuple[object, ...]:
    if answer.status == 200:
        told = answer.json
        return told["decision"], told["would_refuse"], "", "", told["breaches"]
    told = answer.error
    assert answer.status == 409, answer.text
    return "refuse", False, told["reason"], told["message"], told["breaches"]


def told_by_call(tried: Tried) -> tuple[object, ...]:
    decision = tried.decision
    breaches = [breach_body(breach).model_dump() for breach in decision.breaches]
    return (
        decision.outcome.value,
        decision.would_refuse,
        decision.code,
        decision.message,
        breaches,
    )


@pytest.mark.parametrize("name", POLICIES)
async def test_SL5_a_gate_and_a_call_agree(plane: StartPlane, agent: Agent, name: str) -> None:
    """Fresh, above a limit, above the task's line, above the runaway line; with and without key."""
    rules = replace(RULES, policies=POLICIES[name], prices=FREE)
    admin, caller = await plane(rules=rules), Caller(agent, rules)
    key = await key_of(admin)
    for tokens in (10, 21_000, 10_000, 20_000):
        await caller.call("PLAN", key, tokens)
        for phase, payer in product(("PLAN", "VERIFY"), (None, key)):
            asked: dict[str, Any] = {"phase": phase, **({"key": payer.id} if payer else {})}
            gate = await admin.ask("POST", "/admin/v1/tasks/T/gate", json=asked)
            call = await caller.call(phase, payer)
            assert told_by_gate(gate) == told_by_call(call), (tokens, asked)
            if gate.status == 200:
                assert call.plan is not None
                assert gate.json["policy"] == call.plan.policy.name
                assert gate.json["mode"] == call.plan.mode.value


async def test_the_key_must_be_a_good_one(plane: StartPlane, agent: Agent) -> None:
    await agent.call("PLAN", 10)
    answer = await (await plane()).ask("POST", "/admin/v1/tasks/T/gate", json={"key": "aaaaaaaa"})
    assert (answer.status, answer.error["code"], answer.error["field"]) == (
        422,
        "unknown_key",
        "key",
    )


async def test_what_is_for_certain_models_is_not_for_a_gate(
    plane: StartPlane, agent: Agent
) -> None:
    """It asks for none: the task's next call may go to any."""
    match = Match(calls=(CallMatch(model=frozenset({"*"})),))
    of_models = SpendLimitPolicy(mode=Mode.ENFORCE, per=LimitScope.MODEL, hard=Amounts(tokens=0))
    policies = PolicySet((replace(ENFORCE, match=match), OBSERVE), spend_limit=(of_models,))
    await agent.spend(60_000)
    admin = await plane(rules=replace(RULES, policies=policies))
    answer = await admin.ask("POST", "/admin/v1/tasks/T/gate", json={})
    assert (answer.status, answer.json["policy"]) == (200, "observing")
