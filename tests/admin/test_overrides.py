"""`POST /admin/v1/tasks/{id}/overrides`: what it changes, says, refuses and logs."""

import asyncio
import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
import redis

from gateway.core.admission import Verdict
from gateway.core.override_bounds import OverrideBoundsPolicy
from gateway.core.policy_base import Mode
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys
from tests.admin.plane import RULES, TOKEN, WHO, Plane, StartPlane
from tests.store.agent import LIMITS_WITH_MONEY, Agent

DAY_S = 86_400


async def trip(agent: Agent, tokens: int = 31_600) -> None:
    """Let the task end up tripped: of 28,080 tokens, `tokens` are used."""
    await agent.spend(tokens, "VERIFY")
    assert (await agent.call("VERIFY")).tripped_now


async def limit(admin: Plane, phase: str, **amounts: Any) -> Any:
    return await admin.override({"kind": "phase_limit", "phase": phase, **WHO, **amounts})


async def test_a_grant_frees_a_tripped_task(plane: StartPlane, agent: Agent) -> None:
    """The worked example: tripped at 31,600, a grant of 10,000, the next call passes."""
    await trip(agent)
    assert (await agent.call("VERIFY")).verdict is Verdict.REFUSED
    admin = await plane()
    answer = await admin.grant(tokens=10_000)
    assert answer.status == 201
    tokens = answer.json["task"]["totals"]["tokens"]
    assert (tokens["limit"], tokens["granted"], tokens["line"]) == (23_400, 10_000, 38_080)
    assert (tokens["remaining"], tokens["percent"], tokens["status"]) == (1_800, 95, "within")
    assert answer.json["task"]["stop_loss"]["state"] == "ok"
    assert answer.json["warnings"] == []
    assert (await agent.call("VERIFY")).verdict is Verdict.HELD


async def test_GW18_an_override_beyond_its_bounds_changes_nothing(
    plane: StartPlane, agent: Agent
) -> None:
    """It names the field, the bound and the policy. An exempt token may, and observe only warns."""
    await agent.call("PLAN")
    bounds = OverrideBoundsPolicy(mode=Mode.ENFORCE, grant_percent=50, factor=Decimal(2))

    async def bounded(**changes: Any) -> Plane:
        policies = replace(RULES.policies, override_bounds=(replace(bounds, **changes),))
        return await plane(rules=replace(RULES, policies=policies))

    admin = await bounded()
    assert (await admin.grant(tokens=10_000)).status == 201
    answer = await admin.grant(tokens=2_000)
    assert (answer.status, answer.error["code"]) == (422, "override_out_of_bounds")
    assert (answer.error["field"], answer.error["policy"]) == ("tokens", "override-bounds")
    assert (
        "12,000 tokens is beyond the bound of policy override-bounds: at most 11,700 tokens"
        in (answer.error["message"])
    )
    answer = await admin.override({"kind": "multiplier", "factor": 3, **WHO})
    assert answer.error["message"].startswith("factor: 3 is beyond the bound")
    assert (await admin.task())["totals"]["tokens"]["granted"] == 10_000
    admin = await bounded(mode=Mode.OBSERVE)
    answer = await admin.grant(tokens=2_000)
    assert answer.status == 201
    assert "12,000 tokens is beyond the bound" in answer.json["warnings"][0]
    for changes in ({"exempt_roles": frozenset({"admin"})}, {"mode": Mode.OFF}):
        answer = await (await bounded(**changes)).grant(tokens=1)
        assert (answer.status, answer.json["warnings"]) == (201, [])


async def test_of_grants_at_the_same_time_those_within_the_bound_are_made(
    plane: StartPlane, agent: Agent
) -> None:
    """Ten of 2,000 tokens at once, where 11,700 may be granted in all."""
    await agent.call("PLAN")
    bounds = OverrideBoundsPolicy(mode=Mode.ENFORCE, grant_percent=50)
    rules = replace(RULES, policies=replace(RULES.policies, override_bounds=(bounds,)))
    admin = await plane(rules=rules)
    answers = await asyncio.gather(*(admin.grant(tokens=2_000) for _ in range(10)))
    assert sorted(answer.status for answer in answers) == [201] * 5 + [422] * 5
    assert (await admin.task())["totals"]["tokens"]["granted"] == 10_000


async def test_the_answer_has_the_override_and_the_new_view(
    plane: StartPlane, agent: Agent
) -> None:
    await agent.call("PLAN")
    admin = await plane()
    answer = await admin.grant(tokens=5, cost_usd="0.5", latency_ms=7, expires_in_s=DAY_S)
    made = answer.json["override"]
    assert answer.json["task"]["overrides"] == [made]
    assert made["expires_ms"] - made["created_ms"] == DAY_S * 1000
    assert made["created_ms"] >= answer.json["task"]["created_ms"]
    for name in ("created", "expires", "created_ms", "expires_ms"):
        assert made.pop(name)
    assert made == {
        "kind": "grant",
        "amounts": {"tokens": 5, "latency_ms": 7, "cost_usd": "0.5", "nano_usd": 500_000_000},
        "phase": None,
        "factor": None,
        "approver": "ada",
        "reason": "nearly done",
        "in_force": True,
    }
    again = await admin.task()
    assert again["overrides"] == answer.json["task"]["overrides"]


async def test_a_grant_that_is_too_small(plane: StartPlane, agent: Agent) -> None:
    """Nothing is changed; what is missing is told in the unit of the request."""
    await trip(agent)
    admin = await plane()
    answer = await admin.grant(tokens=3_000)
    assert answer.status == 422
    assert answer.error == {
        "code": "not_enough_room",
        "message": "The grant leaves task T 520 tokens above its line; nothing was changed. "
        "Remedy: grant at least 3,520 tokens.",
        "field": "tokens",
        "dimension": "tokens",
        "missing": 520,
    }
    task = await admin.task()
    assert task["overrides"] == []
    assert task["stop_loss"]["state"] == "tripped"
    assert admin.events == []
    assert (await admin.grant(tokens=3_520)).status == 201, "the remedy is right"


async def test_a_grant_of_too_little_money(plane: StartPlane, agent: Agent) -> None:
    agent.limits = LIMITS_WITH_MONEY
    await agent.spend(10, nano_usd=200_000_000)
    admin = await plane()
    answer = await admin.grant(cost_usd=0.05)
    assert answer.status == 422
    assert (answer.error["dimension"], answer.error["missing"]) == ("cost_usd", "0.0396")
    assert "Remedy: grant at least $0.0896." in answer.error["message"]
    assert (await admin.grant(cost_usd="0.0896")).status == 201


async def test_a_grant_of_what_has_no_limit(plane: StartPlane, agent: Agent) -> None:
    """It is kept, but it cannot have an effect."""
    await agent.call("PLAN")
    answer = await (await plane()).grant(cost_usd=1)
    assert answer.status == 201
    assert answer.json["warnings"] == [
        "The task has no cost_usd limit: the grant has no effect until it has one."
    ]


async def test_a_limit_of_a_phase(plane: StartPlane, agent: Agent) -> None:
    """It is absolute, and the task's limit is the sum of all phases."""
    await agent.call("PLAN", 100)
    answer = await limit(await plane(), "think", tokens=10_000)
    assert answer.status == 201
    assert answer.json["warnings"] == []
    task = answer.json["task"]
    think = task["phases"][3]
    assert (think["phase"], think["tokens"]["limit"]) == ("THINK", 10_000)
    assert think["tokens"]["line"] == 15_000
    assert think["factors"]["absolute"]
    assert think["latency_ms"]["limit"] == 135_000
    assert task["totals"]["tokens"]["limit"] == 23_400 - 6_000 + 10_000


async def test_a_limit_below_the_calculated_one(plane: StartPlane, agent: Agent) -> None:
    """EC4: applied, with a warning for each."""
    agent.limits = LIMITS_WITH_MONEY
    await agent.call("PLAN", 100)
    admin = await plane()
    answer = await limit(admin, "THINK", tokens=5_999, latency_ms=135_000, cost_usd="0.001")
    assert answer.status == 201
    assert answer.json["warnings"] == [
        "tokens: 5,999 tokens is below the calculated limit of THINK, 6,000 tokens.",
        "cost_usd: $0.001 is below the calculated limit of THINK, $0.015.",
    ]
    assert answer.json["task"]["phases"][3]["tokens"]["limit"] == 5_999


async def test_a_multiplier(plane: StartPlane, agent: Agent) -> None:
    """It scales what was calculated; of two the later one holds."""
    await agent.call("PLAN", 100)
    admin = await plane()
    await limit(admin, "THINK", tokens=10_000)
    for factor in (3, "1.5"):
        answer = await admin.override({"kind": "multiplier", "factor": factor, **WHO})
        assert answer.status == 201
    task = answer.json["task"]
    assert task["totals"]["tokens"]["limit"] == (23_400 - 6_000) * 3 // 2 + 10_000
    assert {phase["factors"]["override_multiplier"] for phase in task["phases"]} == {"1.5"}
    assert [override["factor"] for override in task["overrides"]] == [None, "3", "1.5"]


async def test_a_resume_without_room(plane: StartPlane, agent: Agent) -> None:
    """The trip ends, but the operator is told that it will not last."""
    await trip(agent)
    admin = await plane()
    answer = await admin.override({"kind": "resume", **WHO})
    assert answer.status == 201
    assert answer.json["task"]["stop_loss"]["state"] == "ok"
    assert answer.json["warnings"] == [
        "The task is above its tokens line: 31,600 tokens of 28,080 tokens. Where the policy "
        "enforces it, calls are still refused. Remedy: a grant of at least 3,520 tokens."
    ]
    assert (await agent.call("VERIFY")).verdict is Verdict.REFUSED


@pytest.mark.parametrize("state", ["killed", "blocked"])
async def test_a_task_that_an_operator_stopped(
    plane: StartPlane, agent: Agent, redis_client: redis.Redis, state: str
) -> None:
    """More room does not bring it back."""
    await agent.call("PLAN")
    redis_client.hset(TenantKeys(agent.tenant).task("T"), "state", state)
    answer = await (await plane()).grant(tokens=1)
    assert answer.json["warnings"] == [f"The task is {state}: an override does not change that."]


async def test_an_unknown_task(plane: StartPlane) -> None:
    admin = await plane()
    answer = await admin.grant(tokens=1)
    assert (answer.status, answer.error["code"]) == (404, "unknown_task")
    assert admin.events == []


async def test_overrides_at_the_same_time(plane: StartPlane, agent: Agent) -> None:
    """None is lost."""
    await agent.call("PLAN")
    admin = await plane()
    answers = await asyncio.gather(*(admin.grant(tokens=1) for _ in range(10)))
    assert {answer.status for answer in answers} == {201}
    task = await admin.task()
    assert task["totals"]["tokens"]["granted"] == len(task["overrides"]) == 10


# Who did it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "logged"),
    [
        ({"kind": "grant", "tokens": 9}, {"tokens": 9}),
        ({"kind": "grant", "cost_usd": "0.1"}, {"nano_usd": 100_000_000}),
        (
            {"kind": "phase_limit", "phase": "pr", "latency_ms": 60_000},
            {"phase": "PR", "latency_ms": 60_000},
        ),
        ({"kind": "resume"}, {}),
    ],
)
async def test_the_log_says_who_and_why(
    plane: StartPlane, agent: Agent, said: dict[str, Any], logged: dict[str, Any]
) -> None:
    """SL-12. The token is no part of it."""
    await agent.call("PLAN", 100)
    admin = await plane()
    answer = await admin.override({**said, "approver": "Ada", "reason": "first\n second"})
    assert answer.status == 201, answer.text
    assert admin.events == [
        {
            "event": "override_applied",
            "level": "info",
            "task": "T",
            "kind": said["kind"],
            "approver": "Ada",
            "reason": "first second",
            **logged,
        }
    ]
    assert TOKEN not in json.dumps(admin.events) + answer.text


async def test_the_log_says_how_much_and_how_long(plane: StartPlane, agent: Agent) -> None:
    await agent.call("PLAN", 100)
    admin = await plane()
    body = {"kind": "multiplier", "factor": "1.50", "expires_in_s": 60, **WHO}
    made = (await admin.override(body)).json["override"]
    (event,) = admin.events
    assert str(event["factor"]) == "1.50"
    assert event["expires_ms"] == made["expires_ms"]


# When the store fails -----------------------------------------------------------------------------


async def test_a_store_that_fails_once_the_override_is_in_force(
    plane: StartPlane, agent: Agent, connection: StoreConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That must not look as if nothing had happened: it is logged, and the answer is a success."""
    await agent.call("PLAN")
    admin = await plane(wait_s=1.0)
    execute = connection.execute

    async def silent_when_reading(*command: Any) -> Any:
        if command[0] == "HGETALL":
            await asyncio.sleep(60)
        return await execute(*command)

    monkeypatch.setattr(connection, "execute", silent_when_reading)
    answer = await admin.grant(tokens=5)
    assert answer.status == 201
    assert answer.json["task"] is None
    assert answer.json["override"]["amounts"]["tokens"] == 5
    assert "in force" in answer.json["warnings"][0]
    assert [event["event"] for event in admin.events] == ["override_applied"]
    monkeypatch.undo()
    assert (await admin.task())["totals"]["tokens"]["granted"] == 5
