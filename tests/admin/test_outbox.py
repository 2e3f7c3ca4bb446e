"""Remediation tasks and notices are listed, the latest first, by task and state."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.admin.examples import body_example
from gateway.admin.outbox import DeliveryListBody, RemediationListBody
from gateway.app import outbox_reader
from gateway.core.notices import Notice, NoticeKind
from gateway.core.webhook import WebhookPolicy
from gateway.ledger.database import migrate, open_engine
from gateway.ledger.outbox import Outbox
from tests.admin.plane import StartPlane

PAGE = (Path(__file__).parents[2] / "docs" / "admin-api.md").read_text()
STOP = {"code": "runaway_task", "dimension": "tokens", "used": 9, "limit": 4, "line": 8}


@pytest.fixture
def url(tmp_path: Path, tenant: str) -> str:
    """A ledger in which T tripped, then U."""
    made = f"sqlite:///{tmp_path / 'ledger.db'}"
    hook = WebhookPolicy(url="http://hooks.test/", events=frozenset({NoticeKind.TRIP}))
    with open_engine(made).connect() as connection:
        migrate(connection)
        for at_ms, task in enumerate(("T", "U"), start=1_793_612_400_000):
            facts = {**STOP, "episode": 1, "phase": "PLAN"}
            trip = Notice(NoticeKind.TRIP, "1", tenant, task, at_ms, facts)
            Outbox((hook,), has_roadmap=task == "T").insert(connection, [trip])
        connection.commit()
    return made


async def test_SL6_remediation_is_listed_by_task_and_state(plane: StartPlane, url: str) -> None:
    started = await plane(read_outbox=outbox_reader(url))

    async def listed(query: str = "") -> list[dict[str, Any]]:
        answer = await started.get(f"/admin/v1/remediation{query}")
        assert answer.status == 200, answer.text
        found: list[dict[str, Any]] = answer.json["remediations"]
        return found

    second, first = await listed()
    assert (first["name"], first["state"]) == ("FIX-BUDGET-BREACH-T", "pending")
    assert (second["task"], second["state"], second["episode"]) == ("U", "listed", 1)
    assert first["created"] == "2026-11-02T09:40:00.000Z"
    assert first["document"]["budget_breach"]["stop_reason"] == "runaway_task"
    assert (await listed("?task=T")) == [first]
    assert (await listed("?state=LISTED")) == [second]
    assert (await listed("?task=T&state=written")) == []
    assert (await listed("?limit=1")) == [second]


async def test_GW19_deliveries_are_listed(plane: StartPlane, url: str) -> None:
    started = await plane(read_outbox=outbox_reader(url))
    answer = await started.get("/admin/v1/deliveries?task=T&state=pending")
    (delivery,) = answer.json["deliveries"]
    assert (delivery["kind"], delivery["task"], delivery["webhook"]) == ("trip", "T", "webhook")
    assert (delivery["attempts"], delivery["error"]) == (0, None)
    assert (await started.get("/admin/v1/deliveries?state=dead")).json == {"deliveries": []}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("state=dead", "state"),
        ("task=a/b", "task"),
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("color=red", "color"),
        ("task=T&task=U", "task"),
    ],
)
async def test_a_query_that_means_nothing(plane: StartPlane, query: str, field: str) -> None:
    answer = await (await plane()).get(f"/admin/v1/remediation?{query}")
    assert (answer.status, answer.error["code"]) == (400, "invalid_query")
    assert answer.error["field"] == field
    assert "Remedy: " in answer.error["message"]


async def test_a_ledger_that_cannot_be_read(plane: StartPlane, tmp_path: Path) -> None:
    """There is none, or it has no schema yet: 503, not a failure of ours."""
    for started in (
        await plane(),
        await plane(read_outbox=outbox_reader(f"sqlite:///{tmp_path}/x")),
    ):
        answer = await started.get("/admin/v1/deliveries")
        assert (answer.status, answer.error["code"]) == (503, "ledger_unavailable")


def shown(member: str) -> list[Mapping[str, Any]]:
    blocks = re.findall(r"^```json\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    return [block for block in map(json.loads, blocks) if member in block]


def test_the_page_shows_what_is_answered() -> None:
    remediations: Sequence[Mapping[str, Any]] = shown("remediations")
    assert remediations == [body_example(RemediationListBody, 200)]
    assert shown("deliveries") == [body_example(DeliveryListBody, 200)]
