"""The rules in force: policies, reload, dry run, prices."""

from dataclasses import replace
from typing import Any

import pytest
import redis

from gateway.core.budget import Amounts, Dimension, TaskProfile
from gateway.core.configuration import Rules
from gateway.core.grace import GraceCallPolicy
from gateway.core.loops import LoopPlan, LoopPolicy
from gateway.core.match import CallMatch
from gateway.core.model_downgrade import ModelDowngradePolicy
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.policy import Match, Mode, PolicySet, StopLossPolicy, UnmeteredRoutePolicy
from gateway.core.prices import ModelPrice, PriceTable
from gateway.core.roadmap import RoadmapTask
from gateway.core.spend_limits import LimitScope, SpendLimit, SpendLimitPolicy
from gateway.core.velocity import RatePlan, RatePolicy
from gateway.core.webhook import WebhookPolicy
from gateway.core.windows import Span
from tests.admin.plane import RULES, Plane, StartPlane
from tests.store.agent import Agent, Look, settlement

ENFORCE = replace(
    RULES, policies=PolicySet(stop_loss=(StopLossPolicy(mode=Mode.ENFORCE),), policy_hash="decade")
)
PRICE = ModelPrice(1_250_000_000, 10_000_000_000, 125_000_000, 1_250_000_000, 128_000)


async def test_policies_are_shown_without_what_is_secret(plane: StartPlane) -> None:
    hook = WebhookPolicy(url="https://user:pw@hooks.test/T0/secret-path")
    rules = replace(ENFORCE, policies=replace(ENFORCE.policies, webhook=(hook,)))
    answer = await (await plane(rules=rules)).get("/admin/v1/policies")
    assert answer.status == 200
    assert answer.json["policy_hash"] == "decade"
    shown = {(policy["kind"], policy["name"]): policy for policy in answer.json["policies"]}
    assert shown["stop_loss", "stop-loss"]["mode"] == "enforce"
    assert shown["stop_loss", "stop-loss"]["settings"]["enforce_from"] == "VERIFY"
    assert shown["webhook", "webhook"]["settings"]["url"] == "https://hooks.test/..."
    assert "secret-path" not in answer.text
    assert "pw" not in answer.text


async def test_a_reload_is_made_and_audited(plane: StartPlane, redis_client: redis.Redis) -> None:
    causes: list[str] = []

    async def reload(cause: str) -> list[str]:
        causes.append(cause)
        return []

    admin = await plane(reload=reload)
    answer = await admin.ask("POST", "/admin/v1/policies/reload")
    assert answer.status == 200
    assert causes == ["admin API"]
    ((_, fields),) = redis_client.xrange(admin.parts.names.ledger)
    assert "files:rules" in fields["e"]
    assert '"rules.reload"' in fields["d"]


async def test_a_reload_of_bad_files_changes_nothing(
    plane: StartPlane, redis_client: redis.Redis
) -> None:
    async def reload(_cause: str) -> list[str]:
        return [f"f.yaml:{number}: a fault. Remedy: mend it." for number in range(7)]

    admin = await plane(reload=reload)
    answer = await admin.ask("POST", "/admin/v1/policies/reload")
    assert (answer.status, answer.error["code"]) == (422, "invalid_rules")
    assert answer.error["message"].endswith(
        "f.yaml:4: a fault. Remedy: mend it. And 2 more. Mend the files (`tollgate check` shows "
        "all), then reload."
    )
    assert redis_client.xrange(admin.parts.names.ledger) == []


async def tried(admin: Plane, **call: Any) -> dict[str, Any]:
    answer = await admin.ask("POST", "/admin/v1/policies/dry-run", json={"task": "T", **call})
    assert answer.status == 200, answer.text
    body: dict[str, Any] = answer.json
    return body


async def test_a_dry_run_tells_what_a_call_would_get_and_does_nothing(
    plane: StartPlane, agent: Agent, redis_client: redis.Redis
) -> None:
    """The task's own limits and state decide, as for a call."""
    admin = await plane(rules=ENFORCE)
    new = await tried(admin, phase="VERIFY", input_tokens=1_000)
    assert (new["decision"], new["task_exists"]) == ("allow", False)
    assert redis_client.keys(f"tg:{{{agent.tenant}}}:task:*") == []
    await agent.call("PLAN", 1_000)
    assert (await tried(admin))["decision"] == "allow"
    line = (await admin.task())["totals"]["tokens"]["line"]
    await agent.call("PLAN", line)
    before = redis_client.dump(admin.parts.names.task("T"))
    late = await tried(admin, phase="VERIFY")
    assert (late["decision"], late["code"]) == ("refuse", "task_budget_exceeded")
    assert late["breaches"][0]["dimension"] == "tokens"
    assert "exceeded token budget" in late["message"]
    early = await tried(admin, phase="PLAN")
    assert early["decision"] in ("allow", "flag")
    assert redis_client.dump(admin.parts.names.task("T")) == before


async def test_a_dry_run_without_a_phase_is_held_to_the_line(
    plane: StartPlane, agent: Agent
) -> None:
    """As such a call is."""
    admin = await plane(rules=ENFORCE)
    await agent.call("", 10)
    line = (await admin.task())["totals"]["tokens"]["line"]
    await agent.call("", line)
    assert (await tried(admin))["code"] == "task_budget_exceeded"
    assert (await agent.call("")).stop_code == "task_budget_exceeded"


async def test_a_dry_run_of_a_killed_task(plane: StartPlane, agent: Agent) -> None:
    admin = await plane(rules=ENFORCE)
    await agent.call("PLAN", 10)
    await admin.ask("POST", "/admin/v1/tasks/T/kill", json={"approver": "ada", "reason": "x"})
    assert (await tried(admin))["code"] == "task_killed"


def enforcing(**policies: Any) -> Rules:
    return replace(ENFORCE, policies=replace(ENFORCE.policies, **policies))


async def test_a_dry_run_is_judged_in_the_phase_that_the_task_is_in(
    plane: StartPlane, agent: Agent
) -> None:
    """As a call is that names none."""
    in_verify = Match(calls=(CallMatch(phase=frozenset({WorkPhase.VERIFY})),))
    strict = replace(ENFORCE.policies.stop_loss[0], match=in_verify)
    admin = await plane(rules=enforcing(stop_loss=(strict,)))
    assert (await tried(admin))["decision"] == "allow"
    await agent.call("VERIFY", 30_000)
    late = await tried(admin)
    assert (late["code"], late["phase"]) == ("task_budget_exceeded", "VERIFY")
    assert (await tried(admin, phase="PLAN"))["decision"] == "allow"


async def test_a_dry_run_of_a_key_is_held_to_its_limits_and_models(
    plane: StartPlane, agent: Agent, redis_client: redis.Redis
) -> None:
    look = Look(redis_client, agent.tenant)
    daily = SpendLimitPolicy(mode=Mode.ENFORCE, hard=Amounts(calls=0))
    admin = await plane(rules=enforcing(spend_limit=(daily,)))
    made = await admin.ask("POST", "/admin/v1/keys", json={"name": "ci", "models": ["gpt-x"]})
    key = made.json["id"]
    assert (await tried(admin, key=key, model="gpt-x"))["decision"] == "flag"  # it has no price
    assert (await tried(admin, key=key, model="o3"))["code"] == "forbidden_model"
    no_calls = {Dimension.CALLS: 0}
    limit = SpendLimit(daily.name, LimitScope.KEY, key, Span.DAY, "UTC", True, {}, no_calls)
    plan = agent.plan(spend=(limit,))
    await agent.store.reserve(plan)
    await agent.store.settle(settlement(plan))
    stored = look.everything()
    assert (await tried(admin, key=key, model="gpt-x"))["code"] == "spend_limit_exceeded"
    assert (await tried(admin, task="NEW", key=key))["code"] == "spend_limit_exceeded"
    assert look.everything() == stored
    revoked = await admin.ask("POST", f"/admin/v1/keys/{key}/revoke", json={})
    assert revoked.status == 200, revoked.text
    for unknown in (key, "aaaaaaaa"):
        answer = await admin.ask(
            "POST", "/admin/v1/policies/dry-run", json={"task": "T", "key": unknown}
        )
        assert (answer.status, answer.error["code"]) == (422, "unknown_key")


async def test_a_dry_run_of_a_new_task_has_the_tiers_that_its_call_would_give_it(
    plane: StartPlane,
) -> None:
    """By its key's pins, which a key may leave as all that is said; or by the roadmap."""
    for_high = Match(importance=frozenset({ImportanceTier.HIGH}))
    strict = replace(ENFORCE.policies.stop_loss[0], name="strict", match=for_high)
    rules = enforcing(stop_loss=(strict, *ENFORCE.policies.stop_loss))
    rules = replace(
        rules,
        roadmap={
            "ROAD": RoadmapTask(TaskProfile(Complexity.TINY, ImportanceTier.HIGH)),
            "BAD": RoadmapTask(TaskProfile(), problem="its budgets are malformed"),
        },
    )
    admin = await plane(rules=rules)
    bound = {"name": "ci", "may_set": ["task"], "pins": {"importance": "high"}}
    key = (await admin.ask("POST", "/admin/v1/keys", json=bound)).json["id"]
    assert (await tried(admin))["policy"] == "stop-loss"
    assert (await tried(admin, key=key))["policy"] == "strict"
    assert (await tried(admin, task="ROAD"))["policy"] == "strict"
    assert (await tried(admin, key=key, complexity="Tiny"))["code"] == "forbidden_tag"
    assert (await tried(admin, task="BAD"))["code"] == "task_blocked"
    assert (await tried(admin, importance="critical"))["policy"] == "strict"  # there are keys


async def test_a_dry_run_asks_for_grace(plane: StartPlane, agent: Agent) -> None:
    admin = await plane(rules=enforcing(grace_call=(GraceCallPolicy(mode=Mode.ENFORCE),)))
    await agent.spend(30_000)
    assert (await agent.call("VERIFY")).stop_code == "task_budget_exceeded"
    offered = await tried(admin, phase="VERIFY")
    assert (offered["decision"], offered["grace"]) == ("refuse", "offered")
    for _ in range(2):  # nothing was given by the first
        granted = await tried(admin, phase="VERIFY", grace=True, output_tokens=90_000)
        assert (granted["decision"], granted["grace"]) == ("flag", "admitted")
        assert granted["clamp"] == 20_000


async def test_a_dry_run_knows_velocity_loops_and_stand_ins(
    plane: StartPlane, agent: Agent
) -> None:
    rate = RatePolicy(mode=Mode.ENFORCE, window_s=3_600, limits=Amounts(calls=0))
    loop = LoopPolicy(mode=Mode.ENFORCE, calls=2)
    stand_in = ModelDowngradePolicy(mode=Mode.ENFORCE, models=(("gpt-5", "gpt-5-mini"),))
    near = await plane(rules=enforcing(model_downgrade=(stand_in,)))
    await agent.spend(19_000)
    assert (await tried(near, model="gpt-5"))["model"] == "gpt-5-mini"
    assert (await tried(near, task="NEW", model="gpt-5"))["model"] == "gpt-5"
    fast = await plane(rules=enforcing(rate=(rate,)))
    assert (await tried(fast, phase="PLAN"))["decision"] == "allow"
    await agent.reserve("PLAN", rate=RatePlan("rate", 3_600_000, True, False, {}))
    assert (await tried(fast, phase="PLAN"))["code"] == "velocity_exceeded"
    circles = await plane(rules=enforcing(loop=(loop,)))
    assert (await tried(circles, phase="PLAN"))["decision"] == "allow"
    again = LoopPlan("loop", "f", 2, 600_000, refuses=True)
    for _ in range(2):
        await agent.reserve("PLAN", loop=again)
    assert (await tried(circles, phase="PLAN"))["code"] == "loop_detected"


async def test_a_dry_run_of_a_route_that_is_not_metered(plane: StartPlane) -> None:
    route = UnmeteredRoutePolicy(mode=Mode.ENFORCE)
    admin = await plane(rules=enforcing(unmetered_route=(route,)))
    found = await tried(admin, path="/v1/fine_tuning/jobs")
    assert (found["decision"], found["code"]) == ("refuse", "unmetered_route")
    assert found["model"] is None


async def test_a_price(plane: StartPlane) -> None:
    rules = replace(RULES, prices=PriceTable({"gpt-x": replace(PRICE, tiers=((200_000, PRICE),))}))
    admin = await plane(rules=rules)
    answer = await admin.get("/admin/v1/prices?model=gpt-x")
    assert answer.json["usd_per_million"]["input"] == "1.25"
    assert answer.json["usd_per_million"]["output"] == "10"
    assert answer.json["long_calls"][0]["above_input_tokens"] == 200_000
    assert answer.json["max_output_tokens"] == 128_000
    unknown = await admin.get("/admin/v1/prices?model=other")
    assert (unknown.status, unknown.error["code"]) == (404, "unknown_price")


@pytest.mark.parametrize("query", ["", "?model=", f"?model={'x' * 300}", "?colour=red"])
async def test_a_price_of_nothing(plane: StartPlane, query: str) -> None:
    answer = await (await plane()).get(f"/admin/v1/prices{query}")
    assert (answer.status, answer.error["code"]) == (400, "invalid_query")


async def test_phases_and_overrides_of_a_task(plane: StartPlane, agent: Agent) -> None:
    admin = await plane()
    await agent.call("PLAN", 10)
    await admin.grant(tokens=5_000)
    whole = await admin.task()
    phases = (await admin.get("/admin/v1/tasks/T/phases")).json
    assert phases["phases"] == whole["phases"]
    overrides = (await admin.get("/admin/v1/tasks/T/overrides")).json
    assert overrides["overrides"] == whole["overrides"]
    assert (overrides["task"], len(overrides["overrides"])) == ("T", 1)
    assert (await admin.get("/admin/v1/tasks/U/phases")).status == 404
