"""`GET /admin/v1/breaches` and `/audit`, on a real ledger."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, insert
from sqlalchemy.pool import Pool

from gateway.app import ledger_follower, page_reader
from gateway.core.errors import LedgerError
from gateway.ledger.database import migrate, open_engine
from gateway.ledger.entries import EntryReader
from gateway.ledger.schema import AUDIT, BREACHES
from tests.admin.plane import StartPlane

AT_MS = 1_793_611_800_000


@pytest.fixture
def url(tmp_path: Path, tenant: str) -> str:
    """A ledger with five crossed lines, two of one act, and three audit entries."""
    made = f"sqlite:///{tmp_path / 'ledger.db'}"
    lines = [
        {"number": number, "dimension": dimension, "task": task, "effect": effect}
        for number, dimension, task, effect in (
            (1, "tokens", "T", "flag"),
            (2, "tokens", "T", "refuse"),
            (2, "nano_usd", "T", "refuse"),
            (3, "tokens", "U", "trip"),
            (4, "tokens", "V", "trip"),
        )
    ]
    shared = {"tenant": tenant, "at_ms": AT_MS}
    of_line = {"scope": "task", "line": 7, "episode": 0, "code": "x", "used": 9, "allowed": 5,
               "phase": "PLAN", "call_id": "c-1"}  # fmt: skip
    with open_engine(made).connect() as connection:
        migrate(connection)
        for line in lines:
            connection.execute(
                insert(BREACHES), [{**shared, **of_line, "name": line["task"], **line}]
            )
        for number, action in enumerate(("task.kill", "task.resume", "key.create"), start=1):
            row = {"number": number, "actor": "ada", "action": action, "subject": "T",
                   "reason": "why", "details": '{"state": "killed"}'}  # fmt: skip
            connection.execute(insert(AUDIT), [{**shared, **row}])
        connection.commit()
    return made


async def test_breaches_are_listed_filtered_and_paged(plane: StartPlane, url: str) -> None:
    """Lines of one act stay together, so a page may be longer than asked for."""
    admin = await plane(read_page=page_reader(url))

    async def listed(query: str) -> tuple[list[tuple[str, str]], Any]:
        answer = await admin.get(f"/admin/v1/breaches{query}")
        assert answer.status == 200, answer.text
        lines = [(line["task"], line["dimension"]) for line in answer.json["breaches"]]
        return lines, answer.json["next_cursor"]

    everything, end = await listed("")
    assert everything[:2] == [("V", "tokens"), ("U", "tokens")]
    assert len(everything) == 5
    assert end is None
    paged, cursor = await listed("?limit=3")
    assert len(paged) == 4
    rest, end = await listed(f"?limit=3&cursor={cursor}")
    assert paged + rest == everything
    assert end is None
    assert (await listed("?effect=TRIP"))[0] == [("V", "tokens"), ("U", "tokens")]
    assert {task for task, _ in (await listed("?task=T&phase=plan"))[0]} == {"T"}
    assert ("T", "cost_usd") in everything


async def test_the_audit_is_listed(plane: StartPlane, url: str) -> None:
    admin = await plane(read_page=page_reader(url))
    answer = await admin.get("/admin/v1/audit?limit=2")
    assert [entry["action"] for entry in answer.json["entries"]] == ["key.create", "task.resume"]
    rest = await admin.get(f"/admin/v1/audit?cursor={answer.json['next_cursor']}")
    (entry,) = rest.json["entries"]
    assert (entry["actor"], entry["reason"], entry["at"]) == (
        "ada", "why", "2026-11-02T09:30:00.000Z",
    )  # fmt: skip
    assert entry["details"] == {"state": "killed"}
    one = await admin.get("/admin/v1/audit?action=task.resume&actor=ada&subject=T")
    assert len(one.json["entries"]) == 1


@pytest.mark.parametrize("path", ["/admin/v1/breaches", "/admin/v1/audit"])
@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "cursor=-1", "colour=red", "limit=1&limit=2"]
)
async def test_a_query_that_cannot_be(plane: StartPlane, path: str, query: str) -> None:
    answer = await (await plane()).get(f"{path}?{query}")
    assert (answer.status, answer.error["code"]) == (400, "invalid_query")


@pytest.mark.parametrize("path", ["/admin/v1/breaches", "/admin/v1/audit"])
async def test_a_ledger_that_is_away(plane: StartPlane, path: str, tmp_path: Path) -> None:
    gone = page_reader(f"sqlite:///{tmp_path / 'nothing.db'}")
    answer = await (await plane(read_page=gone)).get(path)
    assert (answer.status, answer.error["code"]) == (503, "ledger_unavailable")
    assert answer.headers["Retry-After"] == "2"


async def test_an_act_on_a_key_comes_to_the_audit(
    plane: StartPlane, tenant: str, redis_client: Any
) -> None:
    """As the ledger's writer reads it from the stream."""
    admin = await plane()
    made = await admin.ask("POST", "/admin/v1/keys", json={"name": "ci", "by": "ada"})
    stream = [
        (str(number), fields) for number, fields in redis_client.xrange(admin.parts.names.ledger)
    ]
    rows = EntryReader(tenant, 400).rows_of(stream)
    (row,) = rows.audit
    assert rows.rejected == []
    assert (row["subject"], row["action"], row["actor"]) == (
        f"key:{made.json['id']}", "key.create", "ada",
    )  # fmt: skip
    assert json.loads(row["details"])["name"] == "ci"


def test_whoever_watches_keeps_the_ledger_open(url: str, tenant: str, tmp_path: Path) -> None:
    """One connection for all looks, which see what is new; after an error, another."""
    ledger = ledger_follower(url)()
    opened: list[int] = []

    def note(*_: object) -> None:
        opened.append(1)

    event.listen(Pool, "connect", note)
    first = ledger.read_on("audit", tenant, 0, 10)
    assert [row["number"] for row in first] == [1, 2, 3]
    assert ledger.last_number("audit", tenant) == 3
    assert ledger.last_number("audit", "nobody") == 0
    with open_engine(url).connect() as connection:
        row = {"number": 9, "actor": "ada", "action": "task.kill", "subject": "T", "reason": "",
               "details": "{}", "tenant": tenant, "at_ms": AT_MS}  # fmt: skip
        connection.execute(insert(AUDIT), [row])
        connection.commit()
    opened.clear()
    assert [row["number"] for row in ledger.read_on("audit", tenant, 3, 10)] == [9]
    assert opened == []
    ledger.close()
    assert len(ledger.read_on("audit", tenant, 0, 10)) == len(first) + 1
    assert len(opened) == 1
    event.remove(Pool, "connect", note)
    ledger.close()
    ledger.close()
    gone = ledger_follower(f"sqlite:///{tmp_path / 'later.db'}")()
    with pytest.raises(LedgerError):
        gone.last_number("audit", tenant)
    with open_engine(f"sqlite:///{tmp_path / 'later.db'}").connect() as connection:
        migrate(connection)
    assert gone.read_on("audit", tenant, 0, 10) == []
    gone.close()
