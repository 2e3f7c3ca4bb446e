"""What is told to the outside is put down with what it follows from, once."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.core.acts import Act, Verb
from gateway.core.admission import Verdict
from gateway.core.budget import Amounts, Dimension
from gateway.core.grace import GracePlan
from gateway.core.loops import LoopPlan
from gateway.core.match import CallMatch
from gateway.core.overrides import Override, OverrideKind
from gateway.core.phases import WorkPhase
from gateway.core.policy_base import Match
from gateway.core.spend_limits import LimitScope, SpendLimit
from gateway.core.usage import UsageSource
from gateway.core.velocity import RatePlan
from gateway.core.webhook import WebhookPolicy
from gateway.core.windows import Span
from gateway.ledger.outbox import Outbox, delete_told, find_in_queue
from gateway.ledger.schema import AUDIT, CALLS, DELIVERIES, REMEDIATIONS
from gateway.store.connection import StoreConnection
from gateway.store.enforcement import switch_enforcement
from gateway.store.keys import TenantKeys
from gateway.store.redis_store import RedisStore
from gateway.store.steering import steer_task
from tests.ledger.desk import Desk
from tests.store.agent import FACTS, LIMITS_WITH_MONEY, Agent, settlement

HOOK = WebhookPolicy(url="http://hooks.test/", secret_env="SECRET")


@pytest.fixture
def agent(store: RedisStore, tenant: str) -> Agent:
    """An agent working on task T; the time is 1,000,000."""
    made = Agent(store, tenant)
    made.at(1_000_000)
    return made


@pytest.fixture
def desk(connection: StoreConnection, tenant: str, tmp_path: Path) -> Desk:
    """A ledger on SQLite, with one webhook that is told everything."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    return Desk(tenant, connection, url, outbox=Outbox((HOOK,), has_roadmap=True))


def told(desk: Desk, kind: str = "") -> list[dict[str, Any]]:
    """The bodies of the notices, in the order in which they happened."""
    rows = desk.rows(DELIVERIES, "created_ms", "kind")
    return [json.loads(row["body"]) for row in rows if kind in ("", row["kind"])]


async def grant(agent: Agent, tokens: int) -> None:
    await agent.override(
        Override(OverrideKind.GRANT, "ann", "more", 1_000_000, amounts=Amounts(tokens=tokens))
    )


async def test_GW19_a_loop_is_told_and_makes_no_remediation(agent: Agent, desk: Desk) -> None:
    """Once, however often the task asks behind it; the refused calls are in the ledger."""
    loop = LoopPlan("loop", "f", 2, 600_000, refuses=True)
    for _ in range(4):
        await agent.reserve("PLAN", loop=loop)
    await desk.written()
    (notice,) = told(desk, "loop")
    assert (notice["event"], notice["task"]) == ("loop", "T")
    assert notice["data"]["reason"] == "the same request 2 times within 600s"
    assert desk.rows(REMEDIATIONS, "episode") == []
    refused = [row for row in desk.rows(CALLS, "number") if row["state"] == "refused"]
    assert [row["code"] for row in refused] == ["loop_detected"] * 3


async def test_GW14_a_grace_call_is_in_the_audit(agent: Agent, desk: Desk) -> None:
    grace = GracePlan(asked=True, allowance_tokens=17_000, ceiling=8_000, least=1)
    await agent.spend(31_600)
    for _ in range(2):
        plan, _ = await agent.reserve("VERIFY", grace=grace)
    await desk.written()
    (row,) = desk.rows(AUDIT, "number")
    assert (row["action"], row["subject"]) == ("grace.admit", "T")
    assert json.loads(row["details"])["call"] == plan.call_id


async def test_SL6_a_trip_is_one_remediation_whatever_is_retried(
    agent: Agent, connection: StoreConnection, tenant: str, ledger_url: str
) -> None:
    """Task, figures, worst phases, estimated share, hash, report, reason, way out; once."""
    desk = Desk(tenant, connection, ledger_url, outbox=Outbox((HOOK,)))
    await agent.spend(600, "PLAN")
    await agent.store.settle(
        settlement(agent.plan("IMPLEMENT"), 31_000, source=UsageSource.ESTIMATED)
    )
    for _ in range(3):
        await agent.reserve("VERIFY")
    await desk.written()
    (row,) = desk.rows(REMEDIATIONS, "episode")
    assert (row["name"], row["task"], row["state"]) == ("FIX-BUDGET-BREACH-T", "T", "listed")
    document = json.loads(row["document"])
    assert document["id"] == "FIX-BUDGET-BREACH-T"
    assert document["title"] == "Task T exceeded token budget: 31,600 / 23,400 (135%)"
    breach = document["budget_breach"]
    assert {name: breach[name] for name in ("task", "episode", "used", "limit", "percent")} == {
        **{"task": "T", "episode": 1, "used": 31_600, "limit": 23_400, "percent": 135}
    }
    assert (breach["stop_reason"], breach["phase"]) == ("task_budget_exceeded", "VERIFY")
    assert breach["worst_phases"] == [
        {"phase": "IMPLEMENT", "used": 31_000},
        {"phase": "PLAN", "used": 600},
    ]
    assert breach["estimated_share"] == round(31_000 / 31_600, 4)
    assert breach["config_hash"] == agent.limits.config_hash  # type: ignore[union-attr]
    assert breach["report"] == "state/evidence/T/verify/budget_report.md"
    assert "/admin/v1/tasks/T/overrides" in breach["unblock"]
    (trip,) = told(desk, "trip")
    assert (trip["event"], trip["task"], trip["data"]["used"]) == ("trip", "T", 31_600)
    (remediation,) = told(desk, "remediation")
    assert remediation["data"] == document
    with desk.connect() as reader:
        assert find_in_queue(reader, REMEDIATIONS, tenant, task="T", state="listed", most=9) == [
            row
        ]
        assert find_in_queue(reader, REMEDIATIONS, tenant, state="pending", most=9) == []


async def test_SL6_each_episode_has_its_own_and_a_remediation_none(
    agent: Agent, desk: Desk
) -> None:
    """The second is `-2`; a task named FIX-BUDGET-BREACH-... never leads to another."""
    await agent.spend(31_600)
    await agent.reserve("VERIFY")
    await grant(agent, 10_000)
    await agent.spend(10_000)
    await agent.reserve("VERIFY")
    agent.task = "FIX-BUDGET-BREACH-T"
    await agent.spend(60_000)
    _, receipt = await agent.reserve("VERIFY")
    assert receipt.tripped_now
    await desk.written()
    rows = desk.rows(REMEDIATIONS, "episode")
    assert [row["name"] for row in rows] == ["FIX-BUDGET-BREACH-T", "FIX-BUDGET-BREACH-T-2"]
    assert {row["state"] for row in rows} == {"pending"}
    assert [notice["task"] for notice in told(desk, "trip")].count("FIX-BUDGET-BREACH-T") == 1


async def test_SL13_a_level_is_told_once_for_task_and_phase(agent: Agent, desk: Desk) -> None:
    """Also if the total falls back and rises again; a raised limit may be told anew."""
    await agent.spend(11_000, "IMPLEMENT")  # 47 % of 23,400; more than all of the phase's 3,500
    assert [notice["data"]["percent"] for notice in told_after(await wrote(desk))] == [
        50, 80, 90, 100,
    ]  # fmt: skip
    await agent.spend(8_000, "PLAN")
    levels = [notice["data"] for notice in told_after(await wrote(desk)) if is_of_task(notice)]
    assert [(data["percent"], data["used"], data["limit"]) for data in levels] == [
        (50, 19_000, 23_400),
        (80, 19_000, 23_400),
    ]
    before = len(told(desk))
    plan, _ = await agent.reserve("THINK")  # holds 17,048
    agent.at(1_040_000)
    await agent.store.expire_due(desk.tenant)  # charges that: over 100 %
    await agent.store.settle(settlement(plan, 100))  # back to 19,100
    await agent.spend(2_000, "SPEC")
    after = [notice for notice in told_after(await wrote(desk))[before:] if is_of_task(notice)]
    assert [notice["data"]["percent"] for notice in after] == [90, 100]
    await grant(agent, 100_000)
    await agent.spend(60_000, "SPEC")
    again = [notice["data"] for notice in told(await wrote(desk), "50") if is_of_task(notice)]
    assert [data["limit"] for data in again] == [23_400, 123_400]


async def test_SL13_a_lower_limit_tells_what_no_charge_crosses(agent: Agent, desk: Desk) -> None:
    """Of phases and of a grant that runs out, too; nothing is told twice."""
    await agent.spend(1_000, "PLAN")  # 42 % of its 2,400
    limit = Override(
        *(OverrideKind.PHASE_LIMIT, "ann", "less", 1_000_000),
        amounts=Amounts(tokens=1_200),
        phase=WorkPhase.PLAN,
    )
    await agent.override(limit)
    told_now = [notice["data"] for notice in told_after(await wrote(desk))]
    assert [(data["phase"], data["percent"], data["limit"]) for data in told_now] == [
        ("PLAN", 50, 1_200),
        ("PLAN", 80, 1_200),
    ]
    more = Amounts(tokens=20_000)
    await agent.override(
        Override(OverrideKind.GRANT, "ann", "today", 1_000_000, 1_050_000, amounts=more)
    )
    await agent.spend(15_000, "SPEC")  # 38 % with the grant, 72 % without
    agent.at(1_060_000)
    await agent.call("THINK", tokens=1)
    await agent.call("THINK", tokens=1)
    of_task = [notice["data"] for notice in told_after(await wrote(desk)) if is_of_task(notice)]
    assert [(data["percent"], data["used"], data["limit"]) for data in of_task] == [
        (50, 16_000, 22_200)
    ]


async def wrote(desk: Desk) -> Desk:
    await desk.written()
    return desk


def told_after(desk: Desk) -> list[dict[str, Any]]:
    """The notices of pressure, level by level."""
    found = [notice for notice in told(desk) if notice["event"] == "pressure"]
    return sorted(found, key=lambda notice: (notice["at_ms"], notice["data"]["percent"]))


def is_of_task(notice: dict[str, Any]) -> bool:
    return notice["data"]["scope"] == "task"


async def test_SL13_ancestors_and_money(agent: Agent, desk: Desk) -> None:
    """What a child uses is told as its ancestor's, also if the id has dots; dollars too."""
    agent.task, agent.limits = "up.1", LIMITS_WITH_MONEY
    await agent.spend(10, "PLAN")
    agent.task = "T"
    agent.facts = type(FACTS)(FACTS.complexity, FACTS.importance, ("up.1",))
    await agent.spend(12_000, "PLAN", nano_usd=80_000_000)
    await desk.written()
    found = {
        (notice["task"], notice["data"]["dimension"], notice["data"]["percent"])
        for notice in told_after(desk)
        if is_of_task(notice)
    }
    assert {("up.1", "tokens", 50), ("T", "tokens", 50)} <= found
    assert {("up.1", "nano_usd", 50), ("T", "nano_usd", 80)} <= found


async def test_GW19_levels_of_a_spend_limit_are_told_once_a_window(
    agent: Agent, desk: Desk
) -> None:
    """Of its hard line, or the soft one, whichever tasks the calls are of; a new window is anew."""
    day = SpendLimit(
        *("daily", LimitScope.KEY, "k1", Span.DAY, "UTC", False),
        soft={Dimension.TOKENS: 900, Dimension.CALLS: 4},
        hard={Dimension.TOKENS: 1_000},
    )
    for at_ms, task, tokens in ((1_000_000, "T", 600), (1_000_000, "U", 300), (1_000_000, "T", 50)):
        agent.at(at_ms)
        agent.task = task
        plan, _ = await agent.reserve("PLAN", spend=(day,))
        await agent.store.settle(settlement(plan, tokens))
    agent.at(1_000_000 + 86_400_000)
    plan, _ = await agent.reserve("PLAN", spend=(day,))
    await agent.store.settle(settlement(plan, 500))
    found = [notice for notice in told_after(await wrote(desk)) if notice["task"] is None]
    windows = {notice["data"]["window"] for notice in found}
    assert [
        (notice["data"]["dimension"], notice["data"]["percent"], notice["data"]["used"])
        for notice in found
    ] == [
        ("tokens", 50, 600),
        ("calls", 50, 2),
        ("tokens", 80, 900),
        ("tokens", 90, 900),
        ("tokens", 50, 500),
    ]
    assert windows == {"1970-01-01", "1970-01-02"}
    first = found[0]
    assert first["event"] == "pressure"
    assert {name: first["data"][name] for name in ("scope", "name", "policy", "limit")} == {
        **{"scope": "key", "name": "k1", "policy": "daily", "limit": 1_000}
    }


async def test_GW19_a_lower_line_of_a_spend_limit_tells_what_no_charge_crosses(
    agent: Agent, desk: Desk
) -> None:
    """With the next call, once, also while gateways with other rules count in the same window."""
    for line, tokens in ((1_000, 400), (500, 1), (1_000, 1), (500, 1)):
        plan, _ = await agent.reserve("PLAN", spend=(limit_of(line),))
        await agent.store.settle(settlement(plan, tokens))
    found = [notice["data"] for notice in told_after(await wrote(desk)) if not notice["task"]]
    assert [(data["percent"], data["used"], data["limit"], data["name"]) for data in found] == [
        (50, 400, 500, "k1"),
        (80, 400, 500, "k1"),
    ]


def limit_of(line: int) -> SpendLimit:
    return SpendLimit(
        *("daily", LimitScope.KEY, "k1", Span.DAY, "UTC", False),
        soft={},
        hard={Dimension.TOKENS: line},
    )


async def test_GW19_velocity_that_refuses_is_told_once_an_episode(agent: Agent, desk: Desk) -> None:
    """It lasts until nothing was refused for a whole window, whatever hour that is."""
    rate = RatePlan("fast", 60_000, refuses=True, would_refuse=False, lines={Dimension.CALLS: 0})
    for at_ms in (3_540_000, 3_599_999, 3_600_000, 3_659_000, 3_719_000, 3_800_000):
        agent.at(at_ms)
        for _ in range(3):
            plan, receipt = await agent.reserve("PLAN", rate=rate)
            if receipt.verdict is Verdict.HELD:
                await agent.store.settle(settlement(plan, 1))
    await desk.written()
    found = told(desk, "velocity")
    assert [notice["at_ms"] for notice in found] == [3_540_000, 3_719_000, 3_800_000]
    first = found[0]
    assert (first["task"], first["data"]["code"]) == ("T", "velocity_exceeded")
    assert {name: first["data"][name] for name in ("policy", "dimension", "used", "limit")} == {
        **{"policy": "fast", "dimension": "calls", "used": 1, "limit": 0}
    }


async def test_GW19_what_people_do_to_a_task_is_told(agent: Agent, desk: Desk) -> None:
    """Kill, resume, complete and overrides, with who and why."""
    await agent.call("PLAN")
    names, connection = TenantKeys(desk.tenant), agent.store.connection
    for verb in ("kill", "resume", "complete"):
        await steer_to(connection, names, verb)
    await grant(agent, 9)
    await desk.written()
    for kind in ("kill", "resume", "complete"):
        (notice,) = told(desk, kind)
        assert notice["data"]["actor"] == "ann"
        assert notice["data"]["reason"] == f"to {kind}"
    (override,) = told(desk, "override")
    assert override["data"]["action"] == "override.grant"


async def steer_to(connection: StoreConnection, names: TenantKeys, verb: str) -> None:
    await steer_task(connection, names, "T", Verb(verb), Act(f"task.{verb}", "ann", f"to {verb}"))


async def test_GW19_a_store_that_lost_its_data_is_told(agent: Agent, desk: Desk) -> None:
    await agent.call("PLAN")
    await desk.written()
    await desk.flush()
    await desk.written()
    (loss,) = told(desk, "store_loss")
    assert loss["task"] is None


async def test_GW19_enforcement_that_is_switched_is_told(agent: Agent, desk: Desk) -> None:
    """Each time, whatever tasks a webhook asks for; who did it and why."""
    low = Match(calls=(CallMatch(task=frozenset({"another"})),))
    desk.outbox.webhooks = (replace(HOOK, match=low),)
    for enabled in (False, True):
        action = "enforcement.on" if enabled else "enforcement.off"
        act = Act(action, "ada", "a wrong budget file")
        await switch_enforcement(desk.store, desk.keys, act, enabled=enabled)
    await desk.written()
    off, on = told(desk)
    assert (off["event"], off["task"]) == ("enforcement", None)
    assert (off["data"]["action"], off["data"]["actor"]) == ("enforcement.off", "ada")
    assert on["data"]["action"] == "enforcement.on"
    assert off["id"] != on["id"]
    acts = [(row["subject"], row["action"], row["actor"]) for row in desk.rows(AUDIT)]
    assert acts == [
        ("gateway:enforcement", "enforcement.off", "ada"),
        ("gateway:enforcement", "enforcement.on", "ada"),
    ]


async def test_only_what_a_webhook_asks_for_is_put_down(agent: Agent, desk: Desk) -> None:
    """And without a webhook nothing is, but for the remediation."""
    other = Match(calls=(CallMatch(task=frozenset({"U"})),))
    hook = WebhookPolicy(name="other", url="http://hooks.test/", secret_env="S", match=other)
    desk.outbox.webhooks = (hook,)
    await agent.spend(31_600)
    await agent.reserve("VERIFY")
    await desk.written()
    desk.outbox.webhooks = ()
    agent.task = "U"
    await agent.spend(31_600)
    await agent.reserve("VERIFY")
    await desk.written()
    assert desk.rows(DELIVERIES, "id") == []
    assert len(desk.rows(REMEDIATIONS, "task")) == 2


async def test_entries_that_come_again_are_told_once(agent: Agent, desk: Desk) -> None:
    """A writer that dies behind its commit leaves them to its successor."""
    await agent.spend(31_600)
    await agent.reserve("VERIFY")
    entries = await agent.store.connection.execute("XRANGE", desk.keys.ledger, "-", "+")
    await desk.written()
    before = desk.rows(DELIVERIES, "id"), desk.rows(REMEDIATIONS, "task")
    for _, fields in entries:
        await agent.store.connection.execute("XADD", desk.keys.ledger, "*", *fields)
    await desk.written()
    assert (desk.rows(DELIVERIES, "id"), desk.rows(REMEDIATIONS, "task")) == before
    assert len(before[0]) > 5


async def test_retention_takes_what_is_done_with(agent: Agent, desk: Desk) -> None:
    await agent.spend(31_600)
    await desk.written()
    with desk.connect() as connection:
        waiting = find_in_queue(connection, DELIVERIES, desk.tenant, most=99)
        done = DELIVERIES.update().where(DELIVERIES.c.id == waiting[0]["id"])
        connection.execute(done.values(state="delivered"))
        delete_told(connection, desk.tenant, 1_000_001)
        left = find_in_queue(
            connection, DELIVERIES, desk.tenant, task="T", state="pending", most=99
        )
    assert [row["id"] for row in left] == [row["id"] for row in waiting[1:]]
