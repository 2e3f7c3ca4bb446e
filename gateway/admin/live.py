"""`GET /admin/v1/events`: what happens, as it happens, as server-sent events.

Two sources: events of this gateway's supervisor and admin plane, and breaches and audit entries of
all gateways from the ledger, which is asked once a second for as long as somebody watches.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiohttp import web

from gateway.admin.answers import ApiError
from gateway.admin.history import audit_body, breach_body
from gateway.admin.parts import PARTS, AdminParts
from gateway.core.errors import LedgerError
from gateway.telemetry.feed import Watcher

MOST_WATCHERS = 16
_POLL_S = 1.0
_HEARTBEAT_POLLS = 15
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
                    await answer.write(text)
            except ConnectionError:
                return answer
            finally:
                tail.close()
    return answer


async def close_feed(app: web.Application) -> None:
    """End all streams, so that the admin plane can stop."""
    app[PARTS].feed.close()


async def _texts(tail: "LedgerTail", watcher: Watcher) -> AsyncIterator[bytes]:
    """Yield what is sent: events, and a comment now and then, which shows that both ends live."""
    await tail.read()
    yield b": the feed begins\n\n"
    polls = 0
    while True:
        try:
            async with asyncio.timeout(_POLL_S):
                event = await watcher.next()
        except TimeoutError:
            polls += 1
            for news in await tail.read():
                yield _text(news)
            if polls % _HEARTBEAT_POLLS == 0:
                yield b": heartbeat\n\n"
            continue
        if event is None:
            return
        yield _text(event)


def _text(event: Mapping[str, object]) -> bytes:
    data = json.dumps(event, default=str)
    return f"event: {event['event']}\ndata: {data}\n\n".encode()


class LedgerTail:
    """What has come to the ledger since it was last read; nothing while it is away.

    The ledger stays open until `close`.
    """

    def __init__(self, parts: AdminParts) -> None:
        self._tenant = parts.names.tenant
        self._pages = parts.page_follower()
        self._closing: asyncio.Future[None] | None = None
        self._seen: dict[str, int] = {}

    async def read(self) -> list[Mapping[str, object]]:
        """Return new breaches and audit entries; the first time there are none."""
        return [event for table in _BODIES for event in await self._news(table)]

    def close(self) -> None:
        """Let go of the ledger; a read that is under way ends first, and is not waited for."""
        self._closing = asyncio.get_running_loop().run_in_executor(None, self._pages.close)

    async def _news(self, table: str) -> list[Mapping[str, object]]:
        seen = self._seen.get(table)
        try:
            rows = await asyncio.to_thread(self._pages.read, table, self._tenant, {}, None, _ROWS)
        except LedgerError:
            return []
        self._seen[table] = max((row["number"] for row in rows), default=seen or 0)
        if seen is None:
            return []
        return [_event(table, row) for row in reversed(rows) if row["number"] > seen]


def _event(table: str, row: Mapping[str, Any]) -> Mapping[str, object]:
    name, body = _BODIES[table]
    return {"event": name, "level": "info", **body(row).model_dump()}
