"""A server that speaks the store's protocol and does one thing wrong."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import hiredis

Answer = Callable[["Session", list[bytes]], None]


class Session(asyncio.Protocol):
    """One connection: commands in, whatever the test says out."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._reader = hiredis.Reader()
        self.transport: asyncio.Transport
        self.commands: list[list[bytes]] = []
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (command := self._reader.gets()) is not False:
            self.commands.append(command)
            self._answer(self, command)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed.set()


class ScriptedServer:
    """Listens on a unix socket; `sessions` are its connections, oldest first."""

    def __init__(self, folder: Path, answer: Answer) -> None:
        self._answer = answer
        self.path = str(folder / "scripted")
        self.sessions: list[Session] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> "ScriptedServer":
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._session, self.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for session in self.sessions:
            session.transport.abort()
            await session.closed.wait()

    def _session(self) -> Session:
        self.sessions.append(Session(self._answer))
        return self.sessions[-1]


def silent(session: Session, command: list[bytes]) -> None:
    """Answer nothing."""


def willing(session: Session, command: list[bytes]) -> None:
    """Answer everything."""
    session.transport.write(b"+OK\r\n")
