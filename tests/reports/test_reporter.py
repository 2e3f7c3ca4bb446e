"""Reports are written behind VERIFY and behind the task, each once, whatever fails in between."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.core.acts import Act, Verb
from gateway.core.call_facts import CallAbout
from gateway.core.phases import WorkPhase
from gateway.ledger.outbox import Outbox
from gateway.ledger.schema import REPORTS
from gateway.reports.reporter import Reporter, ReportRules
from gateway.store.address import StoreAddress
from gateway.store.connection import StoreConnection
from gateway.store.idle import IdleTasks
from gateway.store.keys import TenantKeys
from gateway.store.notes import note_act
from gateway.store.phases import mark_phase
from tests.ledger.desk import Desk, call
from tests.reports.conftest import NOW_S
from tests.reports.scenes import START_MS, complete, grant, whole_life
from tests.store.agent import Agent, settlement


def queue(desk: Desk) -> dict[str, tuple[str, str]]:
    """Cause and state of each report."""
    return {row["task"]: (row["cause"], row["state"]) for row in desk.rows(REPORTS, "task")}


def twin(folder: Path, task: str = "T") -> Any:
    return json.loads((folder / "evidence" / task / "verify/budget_enforcement.json").read_text())


async def test_REP1_every_completed_task_has_a_report(
    agent: Agent, desk: Desk, reporter: Reporter, tmp_path: Path
) -> None:
    """22 of 22, one of them by idling, more than one look takes."""
    names = [f"T-{number}" for number in range(22)]
    for agent.task in names:
        await call(agent, "PLAN", 100, ms=1_000)
        if agent.task != "T-21":
            await complete(agent, int(agent.store.now_ms))
    agent.at(START_MS + 100_000_000)
    assert await IdleTasks(agent.store, agent.tenant, 86_400_000).complete_some() == ["T-21"]
    await desk.written()
    while await reporter.write_due():
        pass
    assert {twin(tmp_path, name)["state"] for name in names} == {"completed"}
    assert all((tmp_path / f"evidence/{name}/monitor/budget_summary.md").exists() for name in names)
    assert set(queue(desk).values()) == {("complete", "written")}
    assert len(desk.said("report_written")) == 22


async def test_REP1_what_asks_for_a_report(agent: Agent, desk: Desk) -> None:
    """VERIFY that ended, by word, by gate or by the work going on; a trip; a kill. No more."""
    connection, names = agent.store.connection, TenantKeys(agent.tenant)
    for agent.task, phase in (("plan", "PLAN"), ("verify", "VERIFY"), ("review", "REVIEW")):
        await agent.call(phase, 10)
    for agent.task in ("ended", "passed", "early", "shut", "tripped", "killed"):
        await agent.call("VERIFY", 10)
    now_ms = agent.store.now_ms
    act = Act("phase.end", "o", "", {"phase": "VERIFY"})
    await mark_phase(connection, names, "ended", WorkPhase.VERIFY, "end", act, now_ms=now_ms)
    for task, phase in (("passed", "VERIFY"), ("early", "PLAN")):
        passed = Act("gate.pass", "o", "", {"phase": phase})
        await note_act(connection, names, f"task:{task}", passed)
    agent.task = "killed"
    await complete(agent, int(now_ms), Verb.KILL)
    for agent.task, path in (("shut", "gate"), ("tripped", "chat")):
        await agent.spend(50_000)
        await agent.reserve("VERIFY", about=CallAbout(path=path))
    await desk.written()
    assert {task: cause for task, (cause, _) in queue(desk).items()} == {
        "review": "verify",
        "ended": "verify",
        "passed": "gate",
        "shut": "trip",
        "tripped": "trip",
        "killed": "kill",
    }


async def test_a_report_is_made_anew_when_its_figures_change(
    agent: Agent, desk: Desk, reporter: Reporter, tmp_path: Path
) -> None:
    """By an override, and by a call that was still open when the task was completed."""
    plan, _ = await agent.reserve("VERIFY")
    await complete(agent, START_MS + 1_000)
    await desk.written()
    assert await reporter.write_due() == 1
    assert twin(tmp_path)["totals"]["tokens"]["used"] == 0
    await agent.store.settle(settlement(plan, 700))
    await grant(agent, START_MS + 2_000)
    await desk.written()
    assert queue(desk) == {"T": ("complete", "pending")}
    assert await reporter.write_due() == 1
    report = twin(tmp_path)
    assert report["totals"]["tokens"]["used"] == 700
    assert [one["approver"] for one in report["overrides"]] == ["ada"]
    await desk.written()
    assert await reporter.write_due() == 0


async def test_EC21_a_failure_is_told_once_and_tried_again(
    agent: Agent, desk: Desk, reporter: Reporter, tmp_path: Path
) -> None:
    """Nothing waits for it: the ledger goes on, other reports too."""
    (tmp_path / "evidence/T").mkdir(parents=True)
    blocker = tmp_path / "evidence/T/verify"
    blocker.write_text("in the way")
    await whole_life(agent)
    await desk.written()
    for _ in range(2):
        assert await reporter.write_due() >= 1
    (event,) = desk.said("report_failed")
    assert (event["level"], event["task"]) == ("error", "T")
    assert queue(desk)["T"] == ("complete", "failed")
    assert queue(desk)["S-1"] == ("complete", "written")
    blocker.unlink()
    assert await reporter.write_due() == 1
    assert queue(desk)["T"] == ("complete", "written")
    assert twin(tmp_path)["mid_task"] is False


async def test_EC21_shutdown_writes_what_is_due(
    agent: Agent, desk: Desk, reporter: Reporter, tmp_path: Path
) -> None:
    """And a process that never held the ledger leaves it to the one that does."""
    await whole_life(agent)
    await desk.written()
    desk.outbox.report_news = False  # as in another process
    await reporter.flush()
    assert not (tmp_path / "evidence").exists()
    running = asyncio.ensure_future(reporter.run())
    async with asyncio.timeout(60):
        while queue(desk)["T"][1] != "written":
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    agent.task = "T-late"
    await call(agent, "REVIEW", 10, ms=1)
    await desk.written()
    await reporter.flush()
    assert twin(tmp_path, "T-late")["current_phase"] == "REVIEW"


async def test_EC21_who_does_not_hold_the_ledger_writes_nothing(desk: Desk, tmp_path: Path) -> None:
    """Of several gateways on one ledger one writes the reports."""
    looks: list[bool] = []

    def holds_nothing() -> bool:
        looks.append(True)
        return False

    standby = Reporter(
        ReportRules(tmp_path / "evidence"),
        (desk.engine, desk.store),
        desk.outbox,
        holds_nothing,
        desk.note,
        lambda: NOW_S,
    )
    with desk.engine.begin() as connection:
        connection.execute(
            REPORTS.insert().values(
                {
                    **{"tenant": desk.tenant, "task": "T", "cause": "trip", "asked_ms": 1},
                    **{"version": 1, "state": "pending", "attempts": 0, "due_ms": 0},
                }
            )
        )
    running = asyncio.ensure_future(standby.run())
    async with asyncio.timeout(60):
        while not looks:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await standby.flush()
    assert queue(desk) == {"T": ("trip", "pending")}
    assert not (tmp_path / "evidence").exists()


async def test_EC15_without_the_store_the_ledger_tells(
    agent: Agent, desk: Desk, reporter: Reporter, tmp_path: Path
) -> None:
    """The same figures, phases, overrides and limits, and a disclaimer."""
    await whole_life(agent)
    await desk.written()
    await reporter.write_due()
    whole = twin(tmp_path)
    away = StoreConnection(StoreAddress(path=str(tmp_path / "nowhere")))
    blind = Reporter(
        ReportRules(tmp_path / "blind/evidence"),
        (desk.engine, away),
        desk.outbox,
        lambda: True,
        desk.note,
        lambda: NOW_S,
    )
    await grant(agent, START_MS + 250_000, tokens=1)  # asks anew
    await desk.written()
    await blind.write_due()
    report = twin(tmp_path / "blind")
    assert len(report["unavailable"]) == 1
    assert report["figures_from"] == "ledger"
    assert report["state"] == "completed"
    for name in ("used", "limit", "status"):
        assert report["totals"]["tokens"][name] == whole["totals"]["tokens"][name]
    phases = [(one["phase"], one["status"], one["tokens"]) for one in whole["phases"]]
    assert [(one["phase"], one["status"], one["tokens"]) for one in report["phases"]] == phases
    assert len(report["overrides"]) == 2


async def test_EC15_a_task_that_nobody_knows(
    desk: Desk, reporter: Reporter, tmp_path: Path, tenant: str, connection: StoreConnection
) -> None:
    await note_act(
        connection, TenantKeys(tenant), "task:lost", Act("gate.pass", "o", "", {"phase": "VERIFY"})
    )
    await desk.written()
    assert await reporter.write_due() == 1
    text = (tmp_path / "evidence/lost/verify/budget_report.md").read_text()
    assert "Data unavailable" in text
    assert queue(desk) == {"lost": ("gate", "written")}


@pytest.mark.parametrize("reports", [True, False])
async def test_RBK2_step_2_there_are_no_reports(agent: Agent, desk: Desk, reports: bool) -> None:
    """Where they are switched off, nothing is asked for."""
    desk.outbox = Outbox(has_reports=reports)
    await call(agent, "REVIEW", 10, ms=1)
    await desk.written()
    assert list(queue(desk)) == (["T"] if reports else [])
