"""`POST .../gate`: the decision of admission, without a call."""

import json
from dataclasses import replace
from typing import Any

import pytest
import redis

from gateway.core.budget import Amounts
from gateway.core.errors import StoreError
from gateway.core.gate import Gate
from gateway.core.loops import LoopPlan, LoopPolicy
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.policy import Mode, PolicySet, StopLossPolicy
from gateway.core.spend_limits import LimitScope, SpendLimitPolicy, limits_on
from gateway.ledger.entries import EntryReader, Rows
from tests.admin.plane import RULES, WHO, Answer, Plane, StartPlane
from tests.store.agent import OBSERVE, Agent, settlement

PLAN, TIERS = WorkPhase.PLAN, (Complexity.MEDIUM, ImportanceTier.MEDIUM)

ENFORCING = replace(
    RULES,
    policies=PolicySet((StopLossPolicy(mode=Mode.ENFORCE),), "decade"),
    budgets=replace(RULES.budgets, config_hash="c0ffee"),
)


async def gate(admin: Plane, task: str = "T", **body: Any) -> Answer:
    return await admin.ask("POST", f"/admin/v1/tasks/{task}/gate", json=body)


async def test_within_its_budget_a_task_passes(plane: StartPlane, agent: Agent) -> None:
    """Nothing is held, counted or opened."""
    await agent.call("PLAN", tokens=100)
    admin = await plane(rules=ENFORCING)
    before = await admin.task()
    answer = await gate(admin, to="review")
    assert answer.status == 200
    assert answer.json == {
        **{"task": "T", "phase": "VERIFY", "to": "REVIEW", "decision": "allow"},
        **{"would_refuse": False, "policy": "stop-loss", "mode": "enforce", "breaches": []},
        **{"policy_hash": "decade", "config_hash": "c0ffee"},
    }
    after = await admin.task()
    assert {**after, "as_of": 0} == {**before, "as_of": 0}


async def test_SL4_SL5_above_its_line_it_does_not(plane: StartPlane, agent: Agent) -> None:
    """The message's figures; it trips, so that calls of every phase are refused; a grant frees."""
    await agent.call("IMPLEMENT")
    await agent.call("IMPLEMENT")
    admin = await plane(rules=ENFORCING)
    answer = await gate(admin)
    assert (answer.status, answer.error["code"]) == (409, "BudgetExceeded")
    assert answer.error["message"].startswith(
        "Task T exceeded token budget: 31,600 / 23,400 (135%). Phase: VERIFY, dimension: tokens."
    )
    assert answer.error["reason"] == "task_budget_exceeded"
    assert (answer.error["episode"], answer.error["remediation"]) == (1, "FIX-BUDGET-BREACH-T")
    assert answer.error["breaches"][0] == {
        **{"scope": "task", "name": "T", "dimension": "tokens"},
        **{"used": 31_600, "allowed": 23_400, "line": 28_080},
    }
    (event,) = admin.events
    assert (event["event"], event["task"]) == ("stop_loss_tripped", "T")
    task = await admin.task()
    assert (task["stop_loss"]["state"], task["counters"]["refused"]) == ("tripped", 1)
    assert (await agent.call("IMPLEMENT")).stop_code == "task_budget_exceeded"
    again = await gate(admin)
    assert (again.status, again.error["episode"], len(admin.events)) == (409, 1, 1)
    assert (await admin.grant(tokens=10_000)).status == 201
    assert (await gate(admin)).status == 200


async def test_CFG8_every_decision_names_the_rules_it_was_made_by(
    plane: StartPlane, agent: Agent, redis_client: redis.Redis
) -> None:
    """In the answer and in the ledger: a pass in the audit, a refusal as an attempt to call."""
    await agent.call("PLAN", tokens=100)
    admin = await plane(rules=ENFORCING)
    made = await admin.ask("POST", "/admin/v1/keys", json={"name": "ci"})
    passed = await gate(admin, phase="IMPLEMENT", to="VERIFY", key=made.json["id"])
    hashes = {"policy_hash": "decade", "config_hash": "c0ffee"}
    assert passed.json.items() >= hashes.items()
    (act,) = [act for act in rows_of(admin, redis_client).audit if act["action"] == "gate.pass"]
    assert (act["subject"], act["actor"]) == ("T", "admin")
    told = {"phase": "IMPLEMENT", "to": "VERIFY", "decision": "allow", "key": made.json["id"]}
    rules = {"policy": "stop-loss", "mode": "enforce", **hashes}
    assert json.loads(act["details"]).items() >= {**told, **rules}.items()
    await agent.spend(50_000)
    refused = await gate(admin)
    assert refused.error.items() >= hashes.items()
    (attempt,) = [call for call in rows_of(admin, redis_client).calls if call["state"] == "refused"]
    assert (attempt["path"], attempt["phase"], attempt["policy"]) == ("gate", "VERIFY", "stop-loss")
    assert attempt.items() >= hashes.items()


def rows_of(admin: Plane, redis_client: redis.Redis) -> Rows:
    """What the ledger makes of the stream."""
    names = admin.parts.names
    entries = [(str(number), fields) for number, fields in redis_client.xrange(names.ledger)]
    return EntryReader(names.tenant, 400).rows_of(entries)


async def test_a_gate_that_cannot_be_noted_is_open(
    plane: StartPlane, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decision that was made holds; the log has what the audit lacks."""
    await agent.call("PLAN", tokens=100)
    admin = await plane(rules=ENFORCING)

    async def fail(*_: object) -> None:
        raise StoreError("gone", "the store is gone")

    monkeypatch.setattr("gateway.admin.gate.note_act", fail)
    assert (await gate(admin)).status == 200
    (event,) = admin.events
    assert (event["event"], event["level"], event["task"]) == ("gate_not_noted", "error", "T")


async def test_what_stops_it_beside_the_task_names_no_remediation(
    plane: StartPlane, agent: Agent
) -> None:
    """A limit of the tenant is not the task's breach; the report is the task's."""
    limit = SpendLimitPolicy(mode=Mode.ENFORCE, per=LimitScope.TENANT, hard=Amounts(tokens=1_000))
    policies = replace(ENFORCING.policies, spend_limit=(limit,))
    admin = await plane(rules=replace(ENFORCING, policies=policies))
    spend = limits_on((limit,), *TIERS, Gate("T", PLAN), agent.tenant, lambda policy: policy.mode)
    plan, _ = await agent.reserve("PLAN", spend=spend)
    await agent.store.settle(settlement(plan, 50_000))
    assert (await gate(admin)).error["episode"] == 1
    assert (await admin.grant(tokens=100_000)).status == 201
    answer = await gate(admin)
    assert (answer.status, answer.error["reason"]) == (409, "spend_limit_exceeded")
    assert (answer.error["episode"], answer.error["remediation"]) == (0, None)
    assert answer.error["report"] == "/admin/v1/tasks/T/report"
    assert (await admin.task())["stop_loss"]["state"] != "tripped"


async def test_G16_the_line_is_that_of_entry_and_of_exit(plane: StartPlane, agent: Agent) -> None:
    """Before `enforce_from` only a runaway task is held, unless it is to enter there."""
    await agent.call("IMPLEMENT")
    await agent.call("IMPLEMENT")
    admin = await plane(rules=ENFORCING)
    assert (await gate(admin, phase="PLAN", to="THINK")).status == 200
    assert (await gate(admin, phase="IMPLEMENT")).status == 200
    assert (await gate(admin, phase="IMPLEMENT", to="VERIFY")).status == 409


async def test_observing_only_flags(plane: StartPlane, agent: Agent) -> None:
    """So does enforcing with the switch off (RBK-2)."""
    agent.effects = OBSERVE
    await agent.call("VERIFY")
    await agent.call("VERIFY")
    budgets = RULES.budgets
    off = replace(budgets, stop_loss=replace(budgets.stop_loss, enabled=False))
    for rules in (RULES, replace(ENFORCING, budgets=off)):
        admin = await plane(rules=rules)
        answer = await gate(admin)
        assert answer.status == 200
        assert (answer.json["decision"], answer.json["would_refuse"]) == ("flag", True)
        assert answer.json["mode"] == "observe"
        assert (await admin.task())["stop_loss"]["state"] == "ok"


async def test_a_killed_task(plane: StartPlane, agent: Agent) -> None:
    """In whatever mode."""
    await agent.call("PLAN")
    admin = await plane()
    await admin.ask("POST", "/admin/v1/tasks/T/kill", json=WHO)
    answer = await gate(admin)
    assert (answer.status, answer.error["code"]) == (409, "wrong_state")


async def test_an_unknown_task_is_not_made(plane: StartPlane) -> None:
    admin = await plane()
    assert (await gate(admin, task="nobody")).status == 404
    assert (await admin.get("/admin/v1/tasks/nobody")).status == 404


@pytest.mark.parametrize(("body", "field"), [({"phase": "DANCE"}, "phase"), ({"to": 5}, "to")])
async def test_what_is_no_phase(plane: StartPlane, body: dict[str, Any], field: str) -> None:
    answer = await gate(await plane(), **body)
    assert (answer.status, answer.error["field"]) == (422, field)


async def test_GW13_a_loop_shuts_it_until_a_resume(plane: StartPlane, agent: Agent) -> None:
    """The task shows what stopped it. Without a policy of the kind nothing is asked."""
    loop = LoopPlan("loop", "f", 2, 600_000, refuses=True)
    for _ in range(2):
        await agent.reserve("PLAN", loop=loop)
    assert (await gate(await plane(rules=ENFORCING))).status == 200
    policies = replace(ENFORCING.policies, loop=(LoopPolicy(mode=Mode.ENFORCE, calls=2),))
    admin = await plane(rules=replace(ENFORCING, policies=policies))
    answer = await gate(admin)
    assert (answer.status, answer.error["reason"]) == (409, "loop_detected")
    assert "goes in circles" in answer.error["message"]
    stop = (await admin.task())["stop_loss"]
    assert (stop["state"], stop["code"], stop["dimension"]) == ("tripped", "loop_detected", None)
    answer = await admin.ask("POST", "/admin/v1/tasks/T/resume", json=WHO)
    assert (answer.status, answer.json["task"]["stop_loss"]["state"]) == (200, "ok")
    assert (await gate(admin)).status == 200
