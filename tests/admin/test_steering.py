"""`POST .../kill`, `.../resume`, `.../complete`."""

from dataclasses import replace
from typing import Any

import pytest

from gateway.core.override_bounds import OverrideBoundsPolicy
from gateway.core.policy_base import Mode
from gateway.store.keys import TenantKeys
from tests.admin.plane import RULES, WHO, Answer, Plane, StartPlane
from tests.store.agent import Agent


async def act(admin: Plane, verb: str, body: Any = WHO, task: str = "T") -> Answer:
    return await admin.ask("POST", f"/admin/v1/tasks/{task}/{verb}", json=body)


async def test_kill_and_resume(plane: StartPlane, agent: Agent) -> None:
    """They hold for the very next call; who did it and why is in the log."""
    await agent.call("PLAN")
    admin = await plane()
    answer = await act(admin, "kill", {**WHO, "reason": "two\nlines"})
    assert answer.status == 200
    assert (answer.json["state"], answer.json["changed"]) == ("killed", True)
    stop = answer.json["task"]["stop_loss"]
    assert (stop["state"], stop["code"]) == ("killed", "task_killed")
    assert stop["since"] == answer.json["task"]["state_since"]
    assert (await agent.call("PLAN")).stop_code == "task_killed"
    assert (await act(admin, "kill")).json["changed"] is False
    assert (await act(admin, "resume")).json["state"] == "open"
    assert (await agent.call("PLAN")).verdict.value == "held"
    assert [(e["event"], e["task"], e["approver"], e["reason"]) for e in admin.events] == [
        ("task_killed", "T", "ada", "two lines"),
        ("task_resumed", "T", "ada", "nearly done"),
    ]


async def test_resume_ends_a_trip_as_well(plane: StartPlane, agent: Agent) -> None:
    await agent.call("IMPLEMENT")
    await agent.call("VERIFY")
    await agent.call("VERIFY")
    admin = await plane()
    await act(admin, "kill")
    answer = await act(admin, "resume")
    assert (answer.json["changed"], answer.json["task"]["stop_loss"]["state"]) == (True, "ok")
    (override,) = answer.json["task"]["overrides"]
    assert (override["kind"], override["approver"]) == ("resume", "ada")


async def test_complete(plane: StartPlane, agent: Agent) -> None:
    await agent.call("PLAN")
    admin = await plane()
    assert (await act(admin, "complete")).json["task"]["state"] == "completed"
    await agent.call("PLAN")
    task = await admin.task()
    assert task["state"] == "reopened"
    plan = next(phase for phase in task["phases"] if phase["phase"] == "PLAN")
    assert [execution["number"] for execution in plan["executions"]] == [1, 2]


@pytest.mark.parametrize("state", ["killed", "blocked"])
async def test_what_is_stopped_cannot_be_completed(
    plane: StartPlane, agent: Agent, state: str
) -> None:
    await agent.call("PLAN")
    await agent.store.connection.execute("HSET", TenantKeys(agent.tenant).task("T"), "state", state)
    answer = await act(await plane(), "complete")
    assert (answer.status, answer.error["code"]) == (409, "wrong_state")
    assert f"is {state}. Remedy: " in answer.error["message"]


@pytest.mark.parametrize("verb", ["kill", "resume", "complete"])
async def test_an_unknown_task(plane: StartPlane, verb: str) -> None:
    answer = await act(await plane(), verb, task="nobody")
    assert (answer.status, answer.error["code"]) == (404, "unknown_task")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "approver"),
        ({"approver": "ada"}, "reason"),
        ({"approver": " ", "reason": "x"}, "approver"),
        ({"approver": "ada", "reason": 5}, "reason"),
        ({**WHO, "why": "x"}, "why"),
        ([], None),
    ],
)
async def test_a_body_that_is_wrong(plane: StartPlane, body: Any, field: str | None) -> None:
    """The field is named, with the remedy."""
    answer = await act(await plane(), "kill", body)
    assert (answer.status, answer.error["code"]) == (422, "invalid_request")
    assert answer.error["field"] == field
    assert "Remedy: " in answer.error["message"]


async def test_reopen(plane: StartPlane, agent: Agent) -> None:
    """A completed task gets a whole budget again; one that is not completed does not."""
    await agent.call("PLAN")
    admin = await plane()
    refused = await act(admin, "reopen")
    assert (refused.status, refused.error["code"]) == (409, "wrong_state")
    assert "complete it first" in refused.error["message"]
    await act(admin, "complete")
    answer = await act(admin, "reopen")
    assert (answer.json["state"], answer.json["changed"]) == ("reopened", True)
    task = answer.json["task"]
    assert (task["generation"], task["totals"]["tokens"]["remaining"]) == (2, 23_400)
    assert admin.events[-1]["event"] == "task_reopened"


async def test_GW18_reopening_is_bound_as_a_grant(plane: StartPlane, agent: Agent) -> None:
    """Else who may not grant could complete a task and reopen it, again and again."""
    await agent.call("PLAN", tokens=15_800)

    async def bounded(**changes: Any) -> Plane:
        bounds = OverrideBoundsPolicy(mode=Mode.ENFORCE, grant_percent=50)
        policies = replace(RULES.policies, override_bounds=(replace(bounds, **changes),))
        return await plane(rules=replace(RULES, policies=policies))

    admin = await bounded()
    assert (await act(admin, "reopen")).error["code"] == "wrong_state"
    await act(admin, "complete")
    answer = await act(admin, "reopen")
    assert (answer.status, answer.error["code"]) == (422, "override_out_of_bounds")
    assert "15,800 tokens is beyond the bound of policy override-bounds" in answer.error["message"]
    task = await admin.task()
    assert (task["state"], task["generation"], task["overrides"]) == ("completed", 1, [])
    admin = await bounded(mode=Mode.OBSERVE)
    answer = await act(admin, "reopen")
    assert answer.json["task"]["generation"] == 2
    assert "15,800 tokens is beyond the bound" in answer.json["warnings"][0]
    admin = await bounded()  # what reopening gave does not count with later grants
    assert (await admin.grant(tokens=11_700)).status == 201
