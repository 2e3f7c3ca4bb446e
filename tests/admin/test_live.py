"""`GET /admin/v1/events`: what happens, as it happens."""

import asyncio
import json
import threading
from typing import Any

from gateway.admin.live import MOST_WATCHERS, close_feed
from gateway.admin.parts import PARTS
from gateway.telemetry.feed import EventFeed
from tests.admin.plane import TOKEN, Plane, StartPlane

PATH = "/admin/v1/events"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
AUDIT = {"at_ms": 1, "actor": "ada", "action": "task.kill", "subject": "T", "reason": "why",
         "details": "{}"}  # fmt: skip


async def event_of(answer: Any) -> dict[str, Any]:
    """The next event of a stream, comments left out."""
    async with asyncio.timeout(60):
        while not (line := await answer.content.readline()).startswith(b"data: "):
            assert line
    event: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
    return event


async def test_events_and_news_of_the_ledger_are_streamed(plane: StartPlane) -> None:
    """What was in the ledger before is not news."""
    rows = [{**AUDIT, "number": 1}]

    def read_page(table: str, *_: object) -> list[dict[str, Any]]:
        return list(reversed(rows)) if table == "audit" else []

    admin = await plane(read_page=read_page)
    async with admin.client.get(PATH, headers=HEADERS) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert await answer.content.readline() == b": the feed begins\n"
        admin.parts.feed.publish("reloaded", "info", {"cause": "file change"})
        first = await event_of(answer)
        assert first == {"event": "reloaded", "level": "info", "cause": "file change"}
        rows.append({**AUDIT, "number": 2, "action": "task.resume"})
        news = await event_of(answer)
        assert (news["event"], news["action"], news["actor"]) == ("audit", "task.resume", "ada")
        await close_feed(admin.client.app)  # type: ignore[arg-type]
        assert (await answer.content.read()).strip() == b""
    await nobody_watches(admin)


class Kept:
    """A ledger without news that is open until it is closed."""

    def __init__(self) -> None:
        self.looks: list[str] = []
        self.closed = threading.Event()

    def read(self, table: str, *_: object) -> list[dict[str, Any]]:
        self.looks.append(table)
        return []

    def close(self) -> None:
        self.closed.set()


async def test_the_ledger_is_open_as_long_as_somebody_watches(plane: StartPlane) -> None:
    """One reader for all looks of a stream, which lets go at its end."""
    made: list[Kept] = []

    def keep_pages() -> Kept:
        made.append(Kept())
        return made[-1]

    admin = await plane(keep_pages=keep_pages)
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


async def nobody_watches(admin: Plane) -> None:
    async with asyncio.timeout(60):
        while len(admin.parts.feed):
            await asyncio.sleep(0.01)


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


async def test_a_slow_watcher_loses_the_oldest() -> None:
    feed = EventFeed()
    with feed.watched() as watcher:
        for number in range(300):
            feed.publish("e", "info", {"number": number})
        assert watcher.lost == 44
        first = await watcher.next()
        assert first is not None
        assert first["number"] == 44
    feed.publish("e", "info", {})
    assert len(feed) == 0
