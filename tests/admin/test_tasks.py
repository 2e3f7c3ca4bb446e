"""`GET /admin/v1/tasks` and `/admin/v1/tasks/{id}`."""

from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from gateway.core.usage import UsageSource
from gateway.store.keys import TenantKeys
from tests.admin.plane import Plane, StartPlane
from tests.store.agent import LIMITS_WITH_MONEY, OBSERVE, Agent, settlement

PHASES = ["STRATEGIZE", "SPEC", "PLAN", "THINK", "IMPLEMENT", "VERIFY", "REVIEW", "PR", "MONITOR"]


# One task -----------------------------------------------------------------------------------------


async def test_an_unknown_task(plane: StartPlane) -> None:
    answer = await (await plane()).get("/admin/v1/tasks/nobody")
    assert answer.status == 404
    assert answer.error["code"] == "unknown_task"
    assert answer.error["field"] == "id"
    assert "nobody" in answer.error["message"]


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("-anonymous", "'-anonymous'"),
        (".hidden", "'.hidden'"),
        ("a%2Fb", "'a/b'"),
        ("a%20b", "'a b'"),
        ("%7Bx%7D", "'{x}'"),
        ("T%0A", r"'T\n'"),
        ("T:overrides", "'T:overrides'"),
        ("x" * 129, "x" * 129),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_cannot_be_an_id(plane: StartPlane, method: str, path: str, shown: str) -> None:
    """It never comes near a key."""
    admin = await plane()
    end = "/overrides" if method == "POST" else ""
    answer = await admin.ask(method, f"/admin/v1/tasks/{path}{end}", data="{}")
    assert answer.status == 400
    assert answer.error["code"] == "invalid_task_id"
    assert answer.error["field"] == "id"
    assert shown in answer.error["message"]


async def test_the_view_of_a_task(plane: StartPlane, agent: Agent) -> None:
    """Every figure under its name."""
    await agent.call("IMPLEMENT")
    await agent.call("VERIFY")
    await agent.call("VERIFY")  # refused: 31,600 of 28,080
    task = await (await plane()).task()
    assert {name: task[name] for name in ("id", "complexity", "importance", "parents")} == {
        "id": "T",
        "complexity": "Medium",
        "importance": "medium",
        "parents": [],
    }
    assert (task["current_phase"], task["open_calls"], task["config_hash"]) == ("VERIFY", 0, "")
    assert task["status"] == "exceeded"
    tokens = task["totals"]["tokens"]
    assert tokens == {
        "limit": 23_400,
        "granted": 0,
        "line": 28_080,
        "runaway_line": 46_800,
        "used": 31_600,
        "reserved": 0,
        "remaining": 0,
        "percent": 135,
        "status": "exceeded",
        "pressure": 100,
    }
    assert list(task["totals"]) == ["tokens", "latency_ms", "cost_usd", "calls"]
    assert task["totals"]["calls"] == {
        **dict.fromkeys(("limit", "line", "runaway_line", "remaining")),
        **dict.fromkeys(("percent", "status", "pressure")),
        "granted": 0,
        "used": 2,
        "reserved": 0,
    }
    assert task["stop_loss"].pop("since") == iso(task["stop_loss"]["since_ms"])
    assert task["stop_loss"].pop("since_ms") >= task["created_ms"]
    assert task["stop_loss"] == {
        "state": "tripped",
        "code": "task_budget_exceeded",
        "dimension": "tokens",
        "episode": 1,
        "remediation": "FIX-BUDGET-BREACH-T",
    }
    assert task["counters"]["refused"] == 1
    assert task["raw_tokens"]["input"] == 30_000
    assert task["overrides"] == []


def iso(moment_ms: int) -> str:
    moment = datetime.fromtimestamp(moment_ms / 1000, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment_ms % 1000:03}Z"


async def test_moments(plane: StartPlane, agent: Agent) -> None:
    """ISO 8601 in UTC, and the same as a number."""
    await agent.call("PLAN")
    task = await (await plane()).task()
    created = datetime.fromisoformat(task["created"])
    assert round(created.timestamp() * 1000) == task["created_ms"]
    assert task["created"].endswith("Z")
    assert task["created"] <= task["last_call"] <= task["as_of"]


async def test_the_nine_phases(plane: StartPlane, agent: Agent) -> None:
    """In order; with limits, lines, what they were computed from, and each time worked on."""
    await agent.call("PLAN", 2_500)
    plan, _ = await agent.reserve("THINK")
    task = await (await plane()).task()
    assert [phase["phase"] for phase in task["phases"]] == PHASES
    by_name = {phase["phase"]: phase for phase in task["phases"]}
    assert [name for name, phase in by_name.items() if not phase["not_started"]] == [
        "PLAN",
        "THINK",
    ]
    found = by_name["PLAN"]
    assert (found["status"], found["tokens"]["status"]) == ("warning", "warning")
    assert (found["tokens"]["limit"], found["tokens"]["line"]) == (2_400, 3_600)
    assert (found["tokens"]["used"], found["tokens"]["percent"]) == (2_500, 104)
    assert found["latency_ms"]["limit"] == 60_000
    assert found["factors"] == {
        "base": {"tokens": 2_000, "latency_ms": 50_000, "cost_usd": None},
        "complexity": "1",
        "importance": "1",
        "phase_weight": "1.2",
        "budget_multiplier": "1",
        "override_multiplier": None,
        "absolute": False,
    }
    (execution,) = found["executions"]
    assert (execution["number"], execution["tokens"]) == (1, 2_500)
    assert execution["started"] <= execution["ended"]
    (running,) = by_name["THINK"]["executions"]
    assert (running["tokens"], running["ended"]) == (0, None)
    assert by_name["THINK"]["tokens"]["reserved"] == 17_048
    assert by_name["PR"]["executions"] == []
    assert by_name["PR"]["status"] == "within"
    await agent.store.release(plan)


async def test_cost_is_exact(plane: StartPlane, agent: Agent) -> None:
    """Dollars as decimal strings, the same as integers beside them."""
    agent.limits = LIMITS_WITH_MONEY
    await agent.call("PLAN", 100, nano_usd=100_000_001)
    task = await (await plane()).task()
    assert task["totals"]["cost_usd"] == {
        "limit": "0.092",
        "granted": "0",
        "line": "0.1104",
        "runaway_line": "0.184",
        "used": "0.100000001",
        "reserved": "0",
        "remaining": "0",
        "percent": 109,
        "status": "warning",
        "pressure": 100,
        "nano_usd": {
            "limit": 92_000_000,
            "granted": 0,
            "line": 110_400_000,
            "runaway_line": 184_000_000,
            "used": 100_000_001,
            "reserved": 0,
            "remaining": 0,
        },
    }
    assert task["status"] == "warning"
    assert task["phases"][2]["factors"]["base"]["cost_usd"] == "0.01"


async def test_counters(plane: StartPlane, agent: Agent) -> None:
    """The estimated share is one of tokens."""
    agent.effects = OBSERVE
    plan, _ = await agent.reserve("PLAN")
    await agent.store.settle(settlement(plan, 1_000, source=UsageSource.ESTIMATED))
    await agent.store.settle(settlement(agent.plan("PLAN"), 2_000, would_refuse=True))
    counters = (await (await plane()).task())["counters"]
    assert counters == {
        "refused": 0,
        "parallel_phases": 0,
        "would_refuse": {"calls": 1, "tokens": 2_000},
        "expired": {"calls": 0, "tokens": 0},
        "estimated": {"calls": 1, "tokens": 1_000, "share": 0.3333},
    }


async def test_a_task_that_used_nothing(plane: StartPlane, agent: Agent) -> None:
    """Its estimated share is none."""
    plan, _ = await agent.reserve("PLAN")
    await agent.store.release(plan)
    task = await (await plane()).task()
    assert task["counters"]["estimated"]["share"] == 0
    assert task["totals"]["tokens"]["used"] == 0


# Many tasks ---------------------------------------------------------------------------------------


async def make(agent: Agent, *names: str, phase: str = "PLAN", tokens: int = 100) -> None:
    for name in names:
        agent.task = name
        await agent.call(phase, tokens)


async def walk(admin: Plane, query: str = "") -> list[list[str]]:
    """Return the ids of all pages."""
    pages, cursor = [], ""
    while True:
        answer = await admin.get(f"/admin/v1/tasks?{query}&cursor={cursor}")
        assert answer.status == 200, answer.text
        pages.append([task["id"] for task in answer.json["tasks"]])
        cursor = answer.json["next_cursor"]
        if cursor is None:
            return pages


async def test_no_tasks(plane: StartPlane) -> None:
    answer = await (await plane()).get("/admin/v1/tasks")
    assert answer.json == {"tasks": [], "next_cursor": None}


async def test_pages(plane: StartPlane, agent: Agent, redis_client: redis.Redis) -> None:
    """Newest first, each once; fifty a page if nothing is said."""
    admin = await plane()
    names = [f"T-{number:02}" for number in range(53)]
    await make(agent, *names)
    for place, name in enumerate(names):  # several tasks in each millisecond
        redis_client.zadd(TenantKeys(agent.tenant).tasks, {name: 1_000_000 + place // 5})
    newest_first = names[::-1]
    assert await walk(admin) == [newest_first[:50], newest_first[50:]]
    assert await walk(admin, "limit=200") == [newest_first]
    assert await walk(admin, "limit=20") == [
        newest_first[:20],
        newest_first[20:40],
        newest_first[40:],
    ]


async def test_a_summary(plane: StartPlane, agent: Agent) -> None:
    """It is a part of the full view."""
    await make(agent, "T")
    admin = await plane()
    (listed,) = (await admin.get("/admin/v1/tasks")).json["tasks"]
    full = await admin.task()
    assert listed == {name: full[name] for name in listed}
    assert set(full) - set(listed) == {
        *("as_of", "generation", "config_hash", "counters", "raw_tokens", "phases", "overrides")
    }


async def test_TRK4_filters(plane: StartPlane, agent: Agent, redis_client: redis.Redis) -> None:
    # In the order of their names: those of one millisecond are listed by name.
    await make(agent, "fine")
    await make(agent, "killed", phase="PR")
    await make(agent, "over", phase="IMPLEMENT", tokens=30_000)
    await make(agent, "tripped", phase="VERIFY", tokens=30_000)
    await make(agent, "tripped", phase="VERIFY")
    await make(agent, "warned", tokens=25_000)
    for name, state in (("killed", "killed"), ("over", "completed"), ("warned", "reopened")):
        redis_client.hset(TenantKeys(agent.tenant).task(name), "state", state)
    admin = await plane()
    for query, ids in (
        ("breach_status=within", ["killed", "fine"]),
        ("breach_status=warning", ["warned"]),
        ("breach_status=EXCEEDED", ["tripped", "over"]),
        ("stop_loss=tripped", ["tripped"]),
        ("stop_loss=ok", ["warned", "over", "fine"]),
        ("status=Killed", ["killed"]),
        ("status=blocked", []),
        ("status=completed", ["over"]),
        ("status=reopened", ["warned"]),
        ("status=open", ["tripped", "fine"]),
        ("status=open&breach_status=exceeded", ["tripped"]),
        ("status=completed&breach_status=exceeded&phase=IMPLEMENT", ["over"]),
        ("status=completed&breach_status=within", []),
        ("phase=plan", ["warned", "fine"]),
        ("phase=VERIFY", ["tripped"]),
        ("phase=PLAN&breach_status=warning", ["warned"]),
        ("phase=PLAN&stop_loss=tripped", []),
    ):
        assert await walk(admin, query) == [ids], query
    assert await walk(admin, "phase=PLAN&limit=1") == [["warned"], ["fine"]]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=-1", "limit"),
        ("limit=1.5", "limit"),
        ("limit=ten", "limit"),
        ("limit=%D9%A1", "limit"),
        ("limit=1&limit=2", "limit"),
        ("cursor=nonsense", "cursor"),
        ("cursor=1:", "cursor"),
        ("cursor=:T", "cursor"),
        ("cursor=-1:T", "cursor"),
        ("cursor=9999999999999999:T", "cursor"),
        ("cursor=1:%7Bx%7D", "cursor"),
        ("status=within", "status"),
        ("status=tripped", "status"),
        ("breach_status=tripped", "breach_status"),
        ("breach_status=within&breach_status=warning", "breach_status"),
        ("stop_loss=open", "stop_loss"),
        ("phase=CODING", "phase"),
        ("phse=PLAN", "phse"),
    ],
)
async def test_a_query_that_is_not_valid(plane: StartPlane, query: str, field: str) -> None:
    answer = await (await plane()).get(f"/admin/v1/tasks?{query}")
    assert answer.status == 400
    assert answer.error["code"] == "invalid_query"
    assert answer.error["field"] == field
    assert "Remedy" in answer.error["message"]


async def test_tenants_do_not_see_each_other(
    plane: StartPlane, agent: Agent, redis_client: redis.Redis
) -> None:
    other: Any = Agent(agent.store, agent.tenant + "-other")
    await other.call("PLAN")
    admin = await plane()
    assert await walk(admin) == [[]]
    assert (await admin.get("/admin/v1/tasks/T")).status == 404
