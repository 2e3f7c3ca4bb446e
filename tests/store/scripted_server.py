"""A server that speaks the store's protocol and does one thing wrong."""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import hiredis

Answer = Callable[["Session", list[bytes]], None]


class Session(asyncio.Protocol):
    """One connection: commands in, whatever the test says out."""

    def __init__(self, answer: Answer, sessions: list["Session"]) -> None:
        self._answer = answer
        self._sessions = sessions
        self._reader = hiredis.Reader()
        self.transport: asyncio.Transport
        self.commands: list[list[bytes]] = []
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._sessions.append(self)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (command := self._reader.gets()) is not False:
            self.commands.append(command)
            self._answer(self, command)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed.set()


class ScriptedServer:
    """Listens on a unix socket, or with `tls` on a port; `sessions` are its connections."""

    def __init__(self, folder: Path, answer: Answer, tls: ssl.SSLContext | None = None) -> None:
        self._answer = answer
        self._tls = tls
        self.path = str(folder / "scripted")
        self.port = 0
        self.sessions: list[Session] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> "ScriptedServer":
        loop = asyncio.get_running_loop()
        if self._tls is None:
            self._server = await loop.create_unix_server(self._session, self.path)
        else:
            self._server = await loop.create_server(self._session, "localhost", ssl=self._tls)
            self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for _ in range(10):  # a connection accepted just now is not a session yet
            await asyncio.sleep(0)
        for session in self.sessions:
            session.transport.abort()
            await session.closed.wait()

    def _session(self) -> Session:
        return Session(self._answer, self.sessions)


def silent(session: Session, command: list[bytes]) -> None:
    """Answer nothing."""


def willing(session: Session, command: list[bytes]) -> None:
    """Answer everything."""
    session.transport.write(b"+OK\r\n")
