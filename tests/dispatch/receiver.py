"""A webhook's receiver on loopback: what came in is kept, what it answers is said by the test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.core.webhook import signature

SECRET = b"a secret that both know"


@dataclass
class Receiver:
    """`answers` are the statuses of the next requests, 200 after that; 0 never answers."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    seen: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        """Answer one request."""
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        signed = signature(SECRET, int(headers["x-tollgate-timestamp"]), body)
        assert headers["x-tollgate-signature"] == f"sha256={signed}"
        self.seen.append((headers, body))
        status = self.answers.pop(0) if self.answers else 200
        if status == 0:
            await asyncio.Event().wait()
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    @property
    def ids(self) -> list[str]:
        """The notices' ids, in the order in which they came."""
        return [headers["x-tollgate-event-id"] for headers, _ in self.seen]


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """Run a receiver."""
    receiver = Receiver()
    app: Any = web.Application()
    app.router.add_post("/hook", receiver.take)
    app.router.add_route("*", "/elsewhere", receiver.take)
    async with TestServer(app) as server:
        receiver.url = str(server.make_url("/hook"))
        yield receiver
