"""`GET /admin/v1/events`: what happens, as it happens, as server-sent events.

Two sources: events of this gateway's supervisor and admin plane as they happen, and breaches and
audit entries of all gateways from the ledger. Whoever watches has a place in the ledger, from which
it is read on once a second whatever happens here, page by page until nothing is left: so nothing
is missing and nothing comes twice. What the ledger has is not told from here (`telemetry/feed.py`).
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from operator import itemgetter
from typing import Any

from aiohttp import web

from gateway.admin.answers import ApiError
from gateway.admin.history import audit_body, breach_body
from gateway.admin.parts import PARTS, AdminParts
from gateway.core.errors import LedgerError
from gateway.telemetry.feed import FeedEvent, Watcher, missed

MOST_WATCHERS = 16
_LOOK_S = 1.0
_HEARTBEAT_S = 15.0
_STALL_S = 60.0  # a client that takes nothing for so long is cut off: others may want its place
_ROWS = 100
_BODIES = {"breaches": ("breach", breach_body), "audit": ("audit", audit_body)}


async def get_events(request: web.Request) -> web.StreamResponse:
    """Stream events until the client leaves or the gateway stops."""
    parts = request.app[PARTS]
    if len(parts.feed) >= MOST_WATCHERS:
        raise ApiError(
            503,
            "too_many_watchers",
            f"{MOST_WATCHERS} clients watch already. Remedy: end one, or try again later.",
            headers={"Retry-After": "10"},
        )
    answer = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
    )
    tail = LedgerTail(parts)
    with parts.feed.watched() as watcher:
        await answer.prepare(request)
        if request.method != "HEAD":
            try:
                async for text in _texts(tail, watcher):
                    async with asyncio.timeout(_STALL_S):
                        await answer.write(text)
            except ConnectionError:
                return answer
            except TimeoutError:
                _cut(request)
            finally:
                tail.close()
    return answer


async def close_feed(app: web.Application) -> None:
    """End all streams, so that the admin plane can stop."""
    app[PARTS].feed.close()


def _cut(request: web.Request) -> None:
    """Close the connection of a client that does not read: it would not read an end either."""
    if request.transport is not None:
        request.transport.abort()


async def _texts(tail: "LedgerTail", watcher: Watcher) -> AsyncIterator[bytes]:
    """Yield what is sent: events, and a comment now and then, which shows that both ends live."""
    clock = asyncio.get_running_loop().time
    await tail.begin()
    yield b": the feed begins\n\n"
    look_at = told_at = clock()
    while True:
        events = await watcher.take(look_at - clock())
        if clock() >= look_at:
            events += await tail.news()
            look_at = clock() if tail.is_behind else clock() + _LOOK_S
        for event in events:
            if event is None:
                return
            yield _text(event)
            told_at = clock()
        if clock() - told_at >= _HEARTBEAT_S:
            yield b": heartbeat\n\n"
            told_at = clock()


def _text(event: Mapping[str, object]) -> bytes:
    data = json.dumps(event, default=str)
    return f"event: {event['event']}\ndata: {data}\n\n".encode()


class LedgerTail:
    """What comes to the ledger, page by page; nothing while it is away, all of it afterwards.

    `is_behind` tells that there was more than one page. The ledger stays open until `close`.
    """

    def __init__(self, parts: AdminParts) -> None:
        self._tenant = parts.names.tenant
        self._ledger = parts.follow_ledger()
        self._closing: asyncio.Future[None] | None = None
        self._places: Mapping[str, int] = {}
        self.is_behind = False

    async def begin(self) -> bool:
        """Take the ledger's end for the place to read on from; return whether that could be."""
        with suppress(LedgerError):
            self._places = await asyncio.to_thread(self._ends)
        return bool(self._places)

    async def news(self) -> list[FeedEvent]:
        """Return breaches and audit entries that came since, in the order of their numbers."""
        if not self._places:  # what came before the ledger could be read is not known
            return [missed(None)] if await self.begin() else []
        try:
            pages = await asyncio.to_thread(self._pages)
        except LedgerError:
            return []
        ends = {table: rows[-1]["number"] for table, rows in pages.items() if rows}
        self._places = {**self._places, **ends}
        self.is_behind = any(len(rows) >= _ROWS for rows in pages.values())
        found = [(row["number"], table, row) for table, rows in pages.items() for row in rows]
        return [_event(table, row) for _, table, row in sorted(found, key=itemgetter(0))]

    def close(self) -> None:
        """Let go of the ledger; a read that is under way ends first, and is not waited for."""
        self._closing = asyncio.get_running_loop().run_in_executor(None, self._ledger.close)

    def _ends(self) -> dict[str, int]:
        return {table: self._ledger.last_number(table, self._tenant) for table in _BODIES}

    def _pages(self) -> dict[str, Sequence[Mapping[str, Any]]]:
        return {
            table: self._ledger.read_on(table, self._tenant, place, _ROWS)
            for table, place in self._places.items()
        }


def _event(table: str, row: Mapping[str, Any]) -> FeedEvent:
    name, body = _BODIES[table]
    return {"event": name, "level": "info", **body(row).model_dump()}
