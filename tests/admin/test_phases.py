"""`POST .../phases/{phase}/start` and `.../end`."""

import pytest

from tests.admin.plane import StartPlane
from tests.store.agent import Agent


async def test_start_and_end(plane: StartPlane, agent: Agent) -> None:
    """In any letter case; a phase beside another's calls is told, not refused."""
    await agent.call("PLAN")
    await agent.reserve("PLAN")
    admin = await plane()
    path = "/admin/v1/tasks/T/phases/think"
    started = await admin.ask("POST", f"{path}/start", json={"by": "orchestrator"})
    assert started.status == 200
    told = {name: value for name, value in started.json.items() if name != "task"}
    assert told == {"phase": "THINK", "execution": 1, "changed": True, "parallel_to": "PLAN"}
    assert started.json["task"]["current_phase"] == "THINK"
    assert started.json["task"]["counters"]["parallel_phases"] == 1
    (event,) = admin.events
    assert (event["event"], event["level"], event["other"]) == (
        *("parallel_phases", "critical", "PLAN"),
    )
    ended = await admin.ask("POST", f"{path}/end", json={})
    assert (ended.json["execution"], ended.json["changed"]) == (1, True)
    (think,) = [p for p in ended.json["task"]["phases"] if p["phase"] == "THINK"]
    (execution,) = think["executions"]
    assert execution["wall_ms"] is not None
    assert execution["ended"] is not None


@pytest.mark.parametrize("what", ["start", "end"])
async def test_what_is_no_phase(plane: StartPlane, what: str) -> None:
    path = f"/admin/v1/tasks/T/phases/DANCE/{what}"
    answer = await (await plane()).ask("POST", path, json={})
    assert (answer.status, answer.error["code"]) == (400, "invalid_phase")
    assert "STRATEGIZE" in answer.error["message"]


async def test_an_unknown_task(plane: StartPlane) -> None:
    path = "/admin/v1/tasks/nobody/phases/PLAN/start"
    answer = await (await plane()).ask("POST", path, json={})
    assert (answer.status, answer.error["code"]) == (404, "unknown_task")
