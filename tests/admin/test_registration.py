"""`POST /admin/v1/tasks`: before the first call, once, and never half understood."""

from typing import Any

import pytest

from tests.admin.plane import Answer, Plane, StartPlane
from tests.store.agent import Agent


async def register(admin: Plane, **body: Any) -> Answer:
    return await admin.ask("POST", "/admin/v1/tasks", json={"id": "T", **body})


def phase(task: Any, name: str) -> Any:
    return next(each for each in task["phases"] if each["phase"] == name)


async def test_a_task_with_limits_of_its_own(plane: StartPlane) -> None:
    """CAL-3's Large/high THINK is 13,500; an absolute limit replaces it, in any letter case."""
    admin = await plane()
    answer = await register(
        admin,
        complexity="large",
        importance="HIGH",
        budget_overrides={"think": {"tokens": 20_000}, "PR": {"cost_usd": "1.5"}},
        registered_by="orchestrator",
    )
    assert answer.status == 201
    assert (answer.json["outcome"], answer.json["warnings"]) == ("created", [])
    task = answer.json["task"]
    assert (task["complexity"], task["importance"], task["state"]) == ("Large", "high", "open")
    think = phase(task, "THINK")
    assert (think["tokens"]["limit"], think["latency_ms"]["limit"]) == (20_000, 303_750)
    assert think["factors"]["absolute"] is True
    assert phase(task, "PR")["cost_usd"]["limit"] == "1.5"
    assert task["totals"]["tokens"]["limit"] == 52_650 + 6_500
    (event,) = admin.events
    assert (event["event"], event["task"], event["by"]) == ("task_registered", "T", "orchestrator")


async def test_OVR1_absolute_limits_are_not_multiplied_and_may_be_any(plane: StartPlane) -> None:
    """EC3: above ten times what is calculated, too."""
    task = (
        await register(
            await plane(),
            budget_multiplier=2,
            budget_overrides={"PLAN": {"tokens": 1_000_000}, "SPEC": {"latency_ms": 7}},
        )
    ).json["task"]
    assert phase(task, "PLAN")["tokens"]["limit"] == 1_000_000
    assert phase(task, "SPEC")["tokens"]["limit"] == 3_000
    assert phase(task, "SPEC")["latency_ms"]["limit"] == 7


async def test_OVR2_a_multiplier_scales_all_limits(plane: StartPlane) -> None:
    task = (await register(await plane(), budget_multiplier="1.5")).json["task"]
    assert task["totals"]["tokens"]["limit"] == 35_100
    assert phase(task, "VERIFY")["factors"]["budget_multiplier"] == "1.5"


async def test_EC4_a_limit_below_the_calculated_one_is_a_warning(plane: StartPlane) -> None:
    answer = await register(await plane(), budget_overrides={"THINK": {"tokens": 5_999}})
    assert answer.json["warnings"] == [
        "tokens: 5,999 tokens is below the calculated limit of THINK, 6,000 tokens."
    ]


@pytest.mark.parametrize(
    ("size", "complexity"),
    [
        ({"files": 2, "changed_lines": 120}, "Tiny"),
        ({"files": 7}, "Medium"),
        ({"changed_lines": 1_000}, "Large"),
        ({}, "Medium"),
        ({"files": 1, "complexity": "Large"}, "Large"),
    ],
)
async def test_CFG10_complexity_by_size(
    plane: StartPlane, size: dict[str, Any], complexity: str
) -> None:
    """Unless it is given."""
    answer = await register(await plane(), **size)
    assert answer.json["task"]["complexity"] == complexity
    assert bool(answer.json["warnings"]) is ("complexity" in size)


async def test_PM6_critical_needs_a_justification(plane: StartPlane) -> None:
    """Nothing is made of one without."""
    admin = await plane()
    answer = await register(admin, importance="critical")
    assert (answer.status, answer.error["code"]) == (422, "invalid_task")
    assert (answer.error["field"], answer.error["task"]) == ("justification", "T")
    assert (await admin.get("/admin/v1/tasks/T")).status == 404
    answer = await register(admin, importance="critical", justification="production is down")
    assert answer.json["task"]["importance"] == "critical"


async def test_again(plane: StartPlane) -> None:
    """The same content changes nothing; other content never gets in."""
    admin = await plane()
    await register(admin, budget_overrides={"PLAN": {"tokens": 5}}, registered_by="a")
    again = await register(admin, budget_overrides={"plan": {"tokens": 5}}, registered_by="b")
    assert (again.status, again.json["outcome"]) == (200, "same")
    other = await register(admin, budget_overrides={"PLAN": {"tokens": 6}})
    assert (other.status, other.error["code"], other.error["field"]) == (409, "task_exists", "id")
    assert phase(await admin.task(), "PLAN")["tokens"]["limit"] == 5
    assert len(admin.events) == 1


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"budget_overrides": {"think": {"tokens": "five thousand"}}}, "think.tokens"),
        ({"budget_overrides": {"think": {"tokens": True}}}, "think.tokens"),
        ({"budget_overrides": {"think": {"tokens": -1}}}, "think.tokens"),
        ({"budget_overrides": {"think": {"tokens": 1.5}}}, "think.tokens"),
        ({"budget_overrides": {"think": {"speed": 1}}}, "think.speed"),
        ({"budget_overrides": {"think": {}}}, "think"),
        ({"budget_overrides": {"thnk": {"tokens": 1}}}, "thnk"),
        ({"budget_overrides": {"PLAN": {"tokens": 1}, "plan": {"tokens": 2}}}, ""),
        ({"budget_overrides": 5}, ""),
        ({"budget_multiplier": 11}, None),
        ({"budget_multiplier": "NaN"}, None),
        ({"budget_multiplier": True}, None),
    ],
)
async def test_EC17_a_malformed_budget_blocks_the_task(
    plane: StartPlane, agent: Agent, fields: dict[str, Any], field: str | None
) -> None:
    """Told with task and field; a correct registration frees it."""
    admin = await plane()
    answer = await register(admin, **fields)
    assert (answer.status, answer.error["code"], answer.error["task"]) == (422, "invalid_task", "T")
    expected = "budget_multiplier" if field is None else f"budget_overrides.{field}".rstrip(".")
    assert answer.error["field"] == expected
    assert answer.error["message"].startswith(f"task T, {expected}: ")
    assert (await admin.task())["stop_loss"]["state"] == "blocked"
    assert (await agent.call("PLAN")).stop_code == "task_blocked"
    again = await register(admin)
    assert (again.status, again.json["outcome"]) == (200, "unblocked")
    assert (await agent.call("PLAN")).verdict.value == "held"
    assert [event["event"] for event in admin.events] == ["task_blocked", "task_registered"]


async def test_EC17_a_malformed_budget_blocks_a_task_at_work(
    plane: StartPlane, agent: Agent
) -> None:
    """Until it is registered as what it is, or an operator frees it."""
    await agent.call("PLAN")
    admin = await plane()
    answer = await register(admin, budget_overrides={"PLAN": {"tokens": "x"}})
    assert (answer.status, answer.error["field"]) == (422, "budget_overrides.PLAN.tokens")
    assert (await admin.task())["state"] == "blocked"
    other = await register(admin, budget_overrides={"PLAN": {"tokens": 6}})
    assert (other.status, "resume it if it is blocked" in other.error["message"]) == (409, True)
    assert (await agent.call("PLAN")).stop_code == "task_blocked"
    by_hand = {"approver": "ada", "reason": "it may go on"}
    resumed = await admin.ask("POST", "/admin/v1/tasks/T/resume", json=by_hand)
    assert (resumed.json["state"], resumed.json["changed"]) == ("open", True)
    await register(admin, budget_multiplier="x")
    again = await register(admin)
    assert (again.status, again.json["outcome"]) == (200, "unblocked")
    assert (await agent.call("PLAN")).verdict.value == "held"
    assert [event["event"] for event in admin.events] == [
        *("task_blocked", "task_resumed", "task_blocked", "task_registered")
    ]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "id"),
        ({"id": ".hidden"}, "id"),
        ({"id": 5}, "id"),
        ({"id": "T", "complexity": "huge"}, "complexity"),
        ({"id": "T", "importance": 5}, "importance"),
        ({"id": "T", "files": -1}, "files"),
        ({"id": "T", "budget": 1}, "budget"),
        ({"id": "T", "complexity": "huge", "budget_multiplier": 0}, "complexity"),
        ({"id": "T", "importance": "critical", "budget_multiplier": 0}, "justification"),
        ([], "the body"),
    ],
)
async def test_what_is_wrong_elsewhere_does_nothing(
    plane: StartPlane, body: Any, field: str
) -> None:
    admin = await plane()
    answer = await admin.ask("POST", "/admin/v1/tasks", json=body)
    assert (answer.status, answer.error["code"]) == (422, "invalid_task")
    assert answer.error["field"] == field
    assert (await admin.get("/admin/v1/tasks")).json["tasks"] == []


async def test_a_parent_and_its_ancestors(plane: StartPlane) -> None:
    """Up to four; they must exist, and none can be below itself."""
    admin = await plane()
    missing = await register(admin, parent="up")
    assert (missing.status, missing.error["field"]) == (422, "parent")
    await register(admin, id="t0")
    for at in range(1, 5):
        answer = await register(admin, id=f"t{at}", parent=f"t{at - 1}")
        assert answer.json["task"]["parents"] == [f"t{n}" for n in reversed(range(at))]
    assert (await register(admin, id="t5", parent="t4")).error["field"] == "parent"
    await register(admin, id="bad", budget_multiplier=0)
    await register(admin, id="child", parent="bad")
    below = await register(admin, id="bad", parent="child")
    assert (below.status, below.error["field"]) == (422, "parent")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("complexity=large", ["big"]),
        ("importance=HIGH", ["small", "big"]),
        ("complexity=Tiny&importance=high", ["small"]),
        ("complexity=Tiny&importance=low", []),
    ],
)
async def test_tasks_are_found_by_their_tiers(
    plane: StartPlane, query: str, found: list[str]
) -> None:
    admin = await plane()
    await register(admin, id="big", complexity="Large", importance="high")
    await register(admin, id="small", complexity="Tiny", importance="high")
    await register(admin, id="plain")
    tasks = (await admin.get(f"/admin/v1/tasks?{query}")).json["tasks"]
    assert sorted(task["id"] for task in tasks) == sorted(found)


@pytest.mark.parametrize("name", ["complexity", "importance"])
async def test_what_is_no_tier(plane: StartPlane, name: str) -> None:
    answer = await (await plane()).get(f"/admin/v1/tasks?{name}=huge")
    assert (answer.status, answer.error["field"]) == (400, name)
