"""`GET /admin/v1/events`: what happens, as it happens, on a real ledger."""

import asyncio
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from gateway.admin import live
from gateway.admin.live import MOST_WATCHERS, close_feed
from gateway.admin.parts import PARTS
from gateway.app import ledger_follower
from gateway.core.errors import LedgerError
from gateway.ledger.database import migrate, open_engine
from gateway.ledger.schema import AUDIT, BREACHES
from gateway.telemetry.feed import IN_LEDGER, EventFeed
from tests.admin.plane import TOKEN, WHO, Plane, StartPlane
from tests.store.agent import Agent

PATH = "/admin/v1/events"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
BEGUN = b": the feed begins\n"
BREACH = {"scope": "task", "name": "T", "dimension": "tokens", "effect": "flag", "code": "",
          "used": 9, "allowed": 5, "phase": "PLAN", "task": "T"}  # fmt: skip


class Book:
    """A ledger that others write."""

    def __init__(self, url: str, tenant: str) -> None:
        self.url, self._tenant = url, tenant
        with open_engine(url).connect() as connection:
            migrate(connection)

    def audit(self, numbers: Sequence[int], reason: str = "why") -> None:
        """Write audit entries with these numbers in one transaction."""
        rows = [
            {"tenant": self._tenant, "number": number, "at_ms": number, "actor": "ada",
             "action": "task.kill", "subject": f"T{number}", "reason": reason, "details": "{}"}
            for number in numbers
        ]  # fmt: skip
        with open_engine(self.url).begin() as connection:
            connection.execute(insert(AUDIT), rows)

    def breaches(self, number: int, lines: Sequence[int]) -> None:
        """Write the lines that one act has crossed."""
        rows = [
            {"tenant": self._tenant, "number": number, "at_ms": number, "call_id": f"c-{number}",
             "line": line, "episode": number, **BREACH}
            for line in lines
        ]  # fmt: skip
        with open_engine(self.url).begin() as connection:
            connection.execute(insert(BREACHES), rows)


@pytest.fixture
def book(tmp_path: Path, tenant: str) -> Book:
    return Book(f"sqlite:///{tmp_path / 'ledger.db'}", tenant)


async def event_of(answer: Any) -> dict[str, Any]:
    """The next event of a stream, comments left out."""
    async with asyncio.timeout(60):
        while not (line := await answer.content.readline()).startswith(b"data: "):
            assert line
    event: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
    return event


async def nobody_watches(admin: Plane) -> None:
    async with asyncio.timeout(60):
        while len(admin.parts.feed):
            await asyncio.sleep(0.01)


async def test_events_and_news_of_the_ledger_are_streamed(plane: StartPlane, book: Book) -> None:
    """What was in the ledger before is not news."""
    book.audit([1])
    admin = await plane(follow_ledger=ledger_follower(book.url))
    async with admin.client.get(PATH, headers=HEADERS) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert await answer.content.readline() == BEGUN
        admin.parts.feed.publish("reloaded", "info", {"cause": "file change"})
        first = await event_of(answer)
        assert first == {"event": "reloaded", "level": "info", "cause": "file change"}
        book.audit([2])
        news = await event_of(answer)
        assert (news["event"], news["subject"], news["actor"]) == ("audit", "T2", "ada")
        await close_feed(admin.client.app)  # type: ignore[arg-type]
        assert (await answer.content.read()).strip() == b""
    await nobody_watches(admin)


async def test_local_traffic_holds_up_no_news_of_the_ledger(plane: StartPlane, book: Book) -> None:
    """Each event that is read makes another one: there is never a silence."""
    admin = await plane(follow_ledger=ledger_follower(book.url))
    async with admin.client.get(PATH, headers=HEADERS) as answer:
        assert await answer.content.readline() == BEGUN
        book.audit([5])
        told = {"event": ""}
        async with asyncio.timeout(30):
            while told["event"] != "audit":
                admin.parts.feed.publish("reloaded", "info", {})
                told = await event_of(answer)
        await close_feed(admin.client.app)  # type: ignore[arg-type]


async def test_a_burst_comes_whole_in_order_and_once(plane: StartPlane, book: Book) -> None:
    """More rows than a page has, of both tables; the lines of one act stay together."""
    admin = await plane(follow_ledger=ledger_follower(book.url))
    async with admin.client.get(PATH, headers=HEADERS) as answer:
        assert await answer.content.readline() == BEGUN
        book.audit(range(1, 1_000, 2))
        for number in range(2, 1_000, 10):
            book.breaches(number, range(3))
        audited, crossed = [], []
        while len(audited) < 500 or len(crossed) < 300:
            told = await event_of(answer)
            (audited if told["event"] == "audit" else crossed).append(told)
        book.audit([1_001])
        last = await event_of(answer)
        await close_feed(admin.client.app)  # type: ignore[arg-type]
    assert [entry["at_ms"] for entry in audited] == [*range(1, 1_000, 2)]
    assert [(line["at_ms"], line["line"]) for line in crossed] == [
        (number, line) for number in range(2, 1_000, 10) for line in range(3)
    ]
    assert last["subject"] == "T1001"


class Ledger:
    """A ledger without news that can be away, and is open until it is closed."""

    def __init__(self, *, away: bool = False) -> None:
        self.looks: list[str] = []
        self.closed = threading.Event()
        self.away = away

    def last_number(self, table: str, _tenant: str) -> int:
        return self._look(table, 7)

    def read_on(self, table: str, _tenant: str, _above: int, _most: int) -> list[dict[str, Any]]:
        return self._look(table, [])

    def _look(self, table: str, found: Any) -> Any:
        self.looks.append(table)
        if self.away:
            raise LedgerError("it is away")
        return found

    def close(self) -> None:
        self.closed.set()


async def test_the_ledger_is_open_as_long_as_somebody_watches(plane: StartPlane) -> None:
    """One reader for all looks of a stream, which lets go at its end."""
    made: list[Ledger] = []

    def follow() -> Ledger:
        made.append(Ledger())
        return made[-1]

    admin = await plane(follow_ledger=follow)
    async with admin.client.get(PATH, headers=HEADERS) as answer:
        async with asyncio.timeout(60):
            while not made or len(made[0].looks) < 4:
                await asyncio.sleep(0.01)
        assert not made[0].closed.is_set()
        await close_feed(admin.client.app)  # type: ignore[arg-type]
        await answer.content.read()
    assert await asyncio.to_thread(made[0].closed.wait, 60)
    assert len(made) == 1
    assert made[0].looks[:4] == ["breaches", "audit"] * 2


async def test_a_ledger_that_comes_late_is_told(
    plane: StartPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows what came before it could be read: that is said, once."""
    monkeypatch.setattr(live, "_LOOK_S", 0.01)
    ledger = Ledger(away=True)
    admin = await plane(follow_ledger=lambda: ledger)
    async with admin.client.get(PATH, headers=HEADERS) as answer:
        async with asyncio.timeout(60):
            while len(ledger.looks) < 3:
                await asyncio.sleep(0.01)
        ledger.away = False
        assert await event_of(answer) == {
            **{"event": "events_missed", "level": "warning", "missed": None}
        }
        admin.parts.feed.publish("reloaded", "info", {})
        assert (await event_of(answer))["event"] == "reloaded"
        await close_feed(admin.client.app)  # type: ignore[arg-type]


async def test_what_came_while_the_ledger_was_away_comes_afterwards(
    plane: StartPlane, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both tables or neither: a place is left only for what was told."""
    monkeypatch.setattr(live, "_LOOK_S", 0.01)
    follower = ledger_follower(book.url)()
    failed: list[str] = []
    is_away = True

    class Failing:
        def last_number(self, table: str, tenant: str) -> int:
            return follower.last_number(table, tenant)

        def read_on(self, table: str, *where: Any) -> Any:
            if is_away and table == "audit":
                failed.append(table)
                raise LedgerError("it is away")
            return follower.read_on(table, *where)

        def close(self) -> None:
            follower.close()

    admin = await plane(follow_ledger=Failing)
    async with admin.client.get(PATH, headers=HEADERS) as answer:
        assert await answer.content.readline() == BEGUN
        book.breaches(3, [1])
        book.audit([2])
        async with asyncio.timeout(60):
            while len(failed) < 3:
                await asyncio.sleep(0.01)
        is_away = False
        assert [(await event_of(answer))["event"] for _ in range(2)] == ["audit", "breach"]
        await close_feed(admin.client.app)  # type: ignore[arg-type]


async def test_a_silence_has_a_heartbeat(
    plane: StartPlane, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_LOOK_S", 0.01)
    monkeypatch.setattr(live, "_HEARTBEAT_S", 0.01)
    admin = await plane(follow_ledger=ledger_follower(book.url))
    async with admin.client.get(PATH, headers=HEADERS) as answer:
        async with asyncio.timeout(60):
            while await answer.content.readline() != b": heartbeat\n":
                pass
        await close_feed(admin.client.app)  # type: ignore[arg-type]


async def test_what_the_ledger_has_is_not_told_from_here(plane: StartPlane, agent: Agent) -> None:
    """Whatever people do through the API is in the audit, a trip among the crossed lines."""
    admin = await plane()
    await agent.call("PLAN", 100)
    for path, body in (
        ("tasks/T/kill", WHO),
        ("tasks/T/resume", WHO),
        ("tasks/T/overrides", {"kind": "grant", "tokens": 10, **WHO}),
        ("tasks/T/complete", WHO),
        ("tasks/T/reopen", WHO),
        ("tasks", {"id": "NEW", "complexity": "Small", "importance": "low"}),
        ("enforcement", {"enabled": False, **WHO}),
        ("enforcement", {"enabled": True, **WHO}),
        ("keys", {"name": "ci"}),
    ):
        answer = await admin.ask("POST", f"/admin/v1/{path}", json=body)
        assert answer.status in (200, 201), answer.text
    for method, body in (("PUT", {"task": "T"}), ("DELETE", None)):
        await admin.ask(method, "/admin/v1/sessions/s-1", json=body)
    told = [event["event"] for event in admin.events]
    assert len(told) == 11
    assert set(told) <= IN_LEDGER
    with admin.parts.feed.watched() as watcher:
        for name in told:
            admin.parts.feed.publish(name, "info", {})
        assert await watcher.take(0) == []


async def test_a_head_and_one_too_many(plane: StartPlane) -> None:
    admin = await plane()
    assert (await admin.ask("HEAD", PATH)).status == 200
    await nobody_watches(admin)
    watched = [admin.parts.feed.watched() for _ in range(MOST_WATCHERS)]
    for one in watched:
        one.__enter__()
    answer = await admin.get(PATH)
    assert (answer.status, answer.error["code"]) == (503, "too_many_watchers")
    assert admin.client.app is not None
    assert admin.client.app[PARTS] is admin.parts


async def test_a_slow_watcher_loses_the_oldest_and_is_told() -> None:
    feed = EventFeed()
    with feed.watched() as watcher:
        for number in range(300):
            feed.publish("e", "info", {"number": number})
        told, *rest = await watcher.take(0)
        assert told == {"event": "events_missed", "level": "warning", "missed": 44}
        assert [event["number"] for event in rest if event] == [*range(44, 300)]
        feed.publish("e", "info", {"number": 300})
        assert await watcher.take(60) == [{"event": "e", "level": "info", "number": 300}]
        assert await watcher.take(0.001) == []
    feed.publish("e", "info", {})
    assert len(feed) == 0


async def not_reading(admin: Plane) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that asks for the feed; nothing more of it is read than fits into buffers."""
    server = admin.client.server
    reader, writer = await asyncio.open_connection(server.host, server.port, limit=200_000)
    lines = (f"GET {PATH} HTTP/1.1", "Host: a", f"Authorization: Bearer {TOKEN}", "", "")
    writer.write("\r\n".join(lines).encode())
    async with asyncio.timeout(60):
        while not len(admin.parts.feed):
            await asyncio.sleep(0.01)
    return reader, writer


async def test_a_client_that_reads_slowly_is_told_what_it_missed(plane: StartPlane) -> None:
    """It gets all the others, in order."""
    admin = await plane()
    reader, writer = await not_reading(admin)
    most = 2_000
    for number in range(most):
        admin.parts.feed.publish("e", "info", {"number": number, "text": "x" * 1_000})
    admin.parts.feed.publish("last", "info", {})
    seen, lost, told = 0, 0, {"event": ""}
    async with asyncio.timeout(60):
        while told["event"] != "last":
            line = await reader.readline()
            if line.startswith(b"data: "):
                told = json.loads(line.removeprefix(b"data: "))
                seen += told["event"] == "e"
                lost += told.get("missed", 0)
    assert lost > 0
    assert seen + lost == most
    writer.close()
    await close_feed(admin.client.app)  # type: ignore[arg-type]


async def test_a_client_that_never_reads_is_cut_off(
    plane: StartPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not keep its place from others for ever."""
    monkeypatch.setattr(live, "_STALL_S", 0.05)
    admin = await plane()
    _, writer = await not_reading(admin)
    for _ in range(256):
        admin.parts.feed.publish("e", "info", {"text": "x" * 100_000})
    await nobody_watches(admin)
    writer.close()
    assert [event for event in admin.events if event["event"] == "admin_request_failed"] == []
