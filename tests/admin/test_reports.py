"""`GET /admin/v1/tasks/{id}/report`, on a real store and a real ledger."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.admin.reports import ReportBody
from gateway.admin.roles import AdminAccess, Role, token_digest
from gateway.app import report_reader
from gateway.core.policy import Mode, PolicySet, StopLossPolicy
from gateway.ledger.database import migrate, open_engine
from gateway.ledger.entries import EntryReader
from gateway.store.address import StoreAddress
from gateway.store.connection import StoreConnection
from tests.admin.plane import RULES, Plane, StartPlane
from tests.ledger.desk import Desk
from tests.store.agent import Agent

PATH = "/admin/v1/tasks/T/report"


@pytest.fixture
def url(tmp_path: Path) -> str:
    made = f"sqlite:///{tmp_path / 'ledger.db'}"
    with open_engine(made).connect() as connection:
        migrate(connection)
    return made


@pytest.fixture
async def reporting(plane: StartPlane, agent: Agent, url: str) -> Plane:
    """A plane with reports; task T is in PLAN, and its limits were changed by Ada."""
    await agent.call("PLAN", 1_000)
    admin = await plane(read_report=report_reader(url))
    await admin.grant(tokens=5)
    return admin


def audit(admin: Plane, tenant: str, redis_client: Any) -> list[dict[str, Any]]:
    """The audit rows of what is in the stream."""
    entries = redis_client.xrange(admin.parts.names.ledger)
    rows = EntryReader(tenant, 400).rows_of([(str(number), fields) for number, fields in entries])
    assert rows.rejected == []
    return rows.audit


async def test_EC14_a_running_task_has_a_report(reporting: Plane) -> None:
    answer = await reporting.get(PATH)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/markdown; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.text.startswith("# Budget Report: T\n")
    assert "\nReport generated mid-task (current phase: PLAN)\n" in answer.text
    assert answer.text.count("Not Started") == 8


@pytest.mark.parametrize(
    ("query", "accept", "is_json"),
    [
        ("", "*/*", False),
        ("", "application/json", True),
        ("", "text/markdown, application/json", False),
        ("?format=markdown", "application/json", False),
        ("?format=JSON", "*/*", True),
    ],
)
async def test_the_format(reporting: Plane, query: str, accept: str, is_json: bool) -> None:
    answer = await reporting.get(PATH + query, headers={"Accept": accept})
    assert (answer.headers["Content-Type"] == "application/json; charset=utf-8") is is_json
    if is_json:
        report = ReportBody.model_validate_json(answer.text).root
        assert (report.task_id, report.current_phase, report.mid_task) == ("T", "PLAN", True)


async def test_PM8_each_access_is_on_record(
    reporting: Plane, plane: StartPlane, url: str, tenant: str, redis_client: Any
) -> None:
    """Who, of which task, in which form: in the log and in the audit; refused ones read nothing."""
    access = AdminAccess("eve", Role.VIEWER, token_digest(b"eves-long-token"))
    admin = await plane(read_report=report_reader(url), accesses=(access,))
    assert (await admin.get(f"{PATH}?redacted=true", token="eves-long-token")).status == 200
    assert (await admin.get(PATH, token="wrong")).status == 401
    (event,) = [one for one in admin.events if one["event"] == "report_read"]
    assert (event["task"], event["by"], event["redacted"]) == ("T", "eve", "true")
    rows = [row for row in audit(admin, tenant, redis_client) if row["action"] == "report.read"]
    assert [(row["subject"], row["actor"]) for row in rows] == [("T", "eve")]


async def test_PM8_a_redacted_export_names_nobody(reporting: Plane) -> None:
    for form in ("json", "markdown"):
        whole = await reporting.get(f"{PATH}?format={form}")
        export = await reporting.get(f"{PATH}?format={form}&redacted=true")
        assert "nearly done" in whole.text
        assert "ada" in whole.text
        assert "nearly done" not in export.text
        assert "ada" not in export.text


async def test_EC15_without_the_store_the_ledger_tells(
    reporting: Plane, plane: StartPlane, url: str, tenant: str, connection: StoreConnection
) -> None:
    desk = Desk(tenant, connection, url)
    await desk.written()
    away = StoreConnection(StoreAddress(path="/nowhere"))
    admin = await plane(store=away, read_report=report_reader(url))
    answer = await admin.get(f"{PATH}?format=json")
    assert answer.status == 200, answer.text
    assert answer.json["figures_from"] == "ledger"
    assert answer.json["totals"]["tokens"]["used"] == 1_000
    assert len(answer.json["unavailable"]) == 1
    assert [one["event"] for one in admin.events] == ["report_read", "report_access_not_noted"]
    assert (await admin.get("/admin/v1/tasks/nobody/report")).status == 404


async def test_EC15_without_the_ledger_the_store_tells(
    reporting: Plane, plane: StartPlane, tmp_path: Path
) -> None:
    gone = report_reader(f"sqlite:///{tmp_path / 'gone.db'}")
    answer = await (await plane(read_report=gone)).get(f"{PATH}?format=json")
    assert answer.status == 200
    assert answer.json["breaches"] is None
    assert answer.json["totals"]["tokens"]["used"] == 1_000
    away = StoreConnection(StoreAddress(path="/nowhere"))
    answer = await (await plane(store=away, read_report=gone)).get(PATH)
    assert (answer.status, answer.error["code"]) == (503, "ledger_unavailable")


async def test_what_is_not_there(reporting: Plane, plane: StartPlane) -> None:
    for path, status, code in (
        ("/admin/v1/tasks/nobody/report", 404, "unknown_task"),
        ("/admin/v1/tasks/-x/report", 400, "invalid_task_id"),
        (f"{PATH}?format=pdf", 400, "invalid_query"),
        (f"{PATH}?colour=red", 400, "invalid_query"),
    ):
        answer = await reporting.get(path)
        assert (answer.status, answer.error["code"]) == (status, code)


async def test_RBK2_step_2_no_reports_on_demand(agent: Agent, plane: StartPlane) -> None:
    await agent.call("PLAN", 10)
    answer = await (await plane()).get(PATH)
    assert (answer.status, answer.error["code"]) == (404, "reports_off")


async def test_REP1_a_gate_behind_verify_asks_for_a_report(
    agent: Agent, plane: StartPlane, url: str, tenant: str, redis_client: Any
) -> None:
    """Open or shut; the refusal says where the report is."""
    await agent.call("VERIFY", 100)
    enforcing = replace(RULES, policies=PolicySet((StopLossPolicy(mode=Mode.ENFORCE),)))
    admin = await plane(rules=enforcing, read_report=report_reader(url))

    async def gate(phase: str) -> Any:
        return await admin.ask("POST", "/admin/v1/tasks/T/gate", json={"phase": phase})

    assert (await gate("PLAN")).status == 200
    assert (await gate("VERIFY")).status == 200
    rows = audit(admin, tenant, redis_client)
    passes = [(row["action"], row["subject"], row["actor"]) for row in rows]
    assert passes == [("gate.pass", "T", "admin")] * 2
    assert [json.loads(row["details"])["phase"] for row in rows] == ["PLAN", "VERIFY"]
    await agent.spend(50_000)
    shut = await gate("VERIFY")
    assert (shut.status, shut.error["report"]) == (409, PATH)
    assert (await admin.get(shut.error["report"])).status == 200
