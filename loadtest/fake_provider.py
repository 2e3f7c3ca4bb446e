"""A model provider that costs nothing: OpenAI's wire format, scripted usage, pacing and faults.

It keeps a journal of what it served, the truth that a gateway's totals are compared with.
In a test: `async with FakeProvider(default=Script(completion_tokens=7)) as provider: ...`;
alone: `python -m loadtest.fake_provider --port 9000`. Any client scripts its own call with
`x-fake-*` headers, through a proxy too.
"""

import argparse
import asyncio
import importlib
import secrets
import signal
import socket
import ssl as tls
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import msgspec
import uvloop

from loadtest.provider_answers import JSON, Call, empty_answer, error_answer, sized_answer, sliced
from loadtest.provider_http import Answer, Connection, Steps
from loadtest.provider_journal import Received, Served, Totals, total
from loadtest.provider_routes import route
from loadtest.provider_script import Script, ScriptError, override
from loadtest.provider_socket import SOCKET_ROUTES, Event, ProviderSocket
from loadtest.provider_tokens import o200k

__all__ = ["FakeProvider", "Received", "Script", "ScriptError", "Served", "Totals"]

_SEND_BUFFER_BYTES = 65_536  # small, so that a reader who stops soon stops the generation too
_BACKLOG = 4_096
_JOURNAL_DELAY_S = 0.2

_PLAIN = Script()

Hook = Callable[[Received], Script | None]


class FakeProvider:
    """The server. Not thread-safe: it lives on the loop that started it.

    `journal` has an entry for every answer begun (but those about the journal itself), `requests`
    what was received, unless `keep_requests` is off. `on_served` is called with each entry once
    nothing will change it any more.
    """

    def __init__(
        self,
        *,
        default: Script = _PLAIN,
        ssl: tls.SSLContext | None = None,
        keep_requests: bool = True,
        on_served: Callable[[Served], None] | None = None,
    ) -> None:
        """Make a provider; `start` binds it."""
        self.journal: list[Served] = []
        self.requests: list[Received] = []
        self.sockets: list[ProviderSocket] = []
        self.connections_accepted = 0
        self.base_url = ""
        self._default = default
        self._ssl = ssl
        self._keep_requests = keep_requests
        self._on_served = on_served
        self._hook: Hook | None = None
        self._connections: set[Connection] = set()
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._server: asyncio.Server | None = None
        self._requests_seen = 0
        self._ident_prefix = secrets.token_hex(4).encode()

    # Life...

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Bind and listen; port 0 takes a free one. Sets `base_url`."""
        loop = asyncio.get_running_loop()
        sock = socket.create_server((host, port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self._server = await loop.create_server(
            lambda: Connection(self, loop), sock=sock, ssl=self._ssl, backlog=_BACKLOG
        )
        scheme = "https" if self._ssl else "http"
        self.base_url = f"{scheme}://{host}:{sock.getsockname()[1]}"

    async def stop(self) -> None:
        """Stop listening and drop every connection; answers under way count as aborted."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._connections):
            connection.abort()
        await self.until(lambda: not self._connections)
        await self._server.wait_closed()
        self._server = None

    async def __aenter__(self) -> "FakeProvider":
        """Start on a free port of the loopback."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        await self.stop()

    # What tests and tools ask...

    @property
    def connections_open(self) -> int:
        """Connections open now."""
        return len(self._connections)

    def script(self, hook: Hook | None) -> None:
        """Ask `hook` for each request's script; where it answers None, the default holds."""
        self._hook = hook

    def totals(self) -> Totals:
        """Sums over the journal: model calls that were answered with 200."""
        return total(self.journal)

    def reset(self) -> None:
        """Forget the journal and the requests."""
        self.journal.clear()
        self.requests.clear()
        self.sockets.clear()

    async def until(self, condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Wait for something to become true of the provider; raises TimeoutError.

        Looked at whenever a connection opens or closes and whenever an answer begins or ends.
        """
        if condition():
            return
        future = asyncio.get_running_loop().create_future()
        waiter = (condition, future)
        self._waiters.append(waiter)
        try:
            await asyncio.wait_for(future, timeout_s)
        finally:
            self._waiters.remove(waiter)

    def _changed(self) -> None:
        for condition, future in self._waiters:
            if not future.done() and condition():
                future.set_result(None)

    # What a connection asks...

    def opened(self, connection: Connection) -> None:
        """Note a new connection."""
        self.connections_accepted += 1
        self._connections.add(connection)
        self._changed()

    def lost(self, connection: Connection) -> None:
        """Forget a connection that is gone."""
        self._connections.discard(connection)
        self._changed()

    def ended(self, served: Served) -> None:
        """Report an entry that is final."""
        if self._on_served is not None and not served.path.startswith("/_"):
            self._on_served(served)
        self._changed()

    def open_socket(self, request: Received, transport: asyncio.Transport) -> ProviderSocket | None:
        """Accept a WebSocket, unless its key never works or its route is none."""
        is_refused = request.header(b"authorization") == b"Bearer bad-key"
        if is_refused or request.path not in SOCKET_ROUTES:
            return None
        if self._keep_requests:
            self.requests.append(request)
        socket = ProviderSocket(self, transport, request)
        self.sockets.append(socket)
        return socket

    def begin_run(self, path: str, event: Event, handshake: Received) -> tuple[Served, Script]:
        """Note a response over a WebSocket; its script is asked for with the event as body."""
        self._requests_seen += 1
        served = Served(self._requests_seen, "GET", path)
        self.journal.append(served)
        request = Received(
            served.number, "GET", path, handshake.headers, msgspec.json.encode(event)
        )
        script = (self._hook(request) if self._hook else None) or self._default
        overrides = [
            (name.lower(), value)
            for name, value in handshake.headers
            if name.lower().startswith(b"x-fake-")
        ]
        return served, override(script, tuple(overrides)) if overrides else script

    def answer(self, request: Received, keep_alive: bool) -> Answer:
        """Begin an answer, and the journal's entry for it."""
        served = Served(0, request.method, request.path)
        call = Call(request, served, self._default, b"", keep_alive)
        if request.target.startswith("/_"):
            steps = self._about_itself(call)
        else:
            self._note(call)
            steps = self._scripted(call)
        if self._waiters:
            self._changed()
        return Answer(served, steps, call.keep_alive)

    def _note(self, call: Call) -> None:
        self._requests_seen += 1
        number = call.request.number = call.served.number = self._requests_seen
        call.ident = b"%b%016x" % (self._ident_prefix, number)
        self.journal.append(call.served)
        if self._keep_requests:
            self.requests.append(call.request)

    def _scripted(self, call: Call) -> Steps:
        if self._hook is not None:
            call.script = self._hook(call.request) or call.script
        try:
            _read_headers(call)
        except ScriptError as error:
            return error_answer(call, 400, str(error))
        steps = route(call)
        return sliced(steps, call.script) if call.script.is_sliced else steps

    def _about_itself(self, call: Call) -> Steps:
        match (call.request.method, call.request.path):
            case ("GET", "/_journal"):
                return sized_answer(call, JSON, msgspec.json.encode(self.journal))
            case ("GET", "/_totals"):
                return sized_answer(call, JSON, msgspec.json.encode(self.totals()))
            case ("DELETE", "/_journal"):
                self.reset()
                return empty_answer(call)
            case _:
                return error_answer(call, 404)


def _read_headers(call: Call) -> None:
    """Take from the headers what changes the answer."""
    overrides = []
    for name, value in call.request.headers:
        lower = name.lower()
        if lower.startswith(b"x-fake-"):
            overrides.append((lower, value))
        elif lower == b"authorization":
            call.is_refused = value == b"Bearer bad-key"
        elif lower == b"x-request-tag":
            call.served.tag = value.decode("latin-1")
    if overrides:
        call.script = override(call.script, tuple(overrides))


# Standing alone...


class _JournalFile:
    """Writes entries as JSON lines; a reader of the file is at most a moment behind."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._file = path.open("wb")
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def write(self, served: Served) -> None:
        self._file.write(msgspec.json.encode(served) + b"\n")
        if self._timer is None:
            self._timer = self._loop.call_later(_JOURNAL_DELAY_S, self._flush)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._file.close()

    def _flush(self) -> None:
        self._timer = None
        self._file.flush()


def _self_signed(folder: Path, host: str) -> tuple[tls.SSLContext, Path]:
    """A server context with a certificate of an authority made for it, and the authority's file."""
    trustme = importlib.import_module("trustme")  # only there where the tests can run
    authority = trustme.CA()
    context = tls.create_default_context(tls.Purpose.CLIENT_AUTH)
    authority.issue_cert(host, "localhost", "127.0.0.1").configure_cert(context)
    ca_file = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    return context, ca_file


async def _serve(options: argparse.Namespace, folder: Path) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    journal = _JournalFile(options.journal, loop) if options.journal else None
    context, ca_file = _self_signed(folder, options.host) if options.tls else (None, None)
    if options.script.prompt_tokens is None:
        o200k()  # half a second, better now than in the first call
    provider = FakeProvider(
        default=options.script,
        ssl=context,
        keep_requests=not options.no_requests,
        on_served=journal.write if journal else None,
    )
    await provider.start(options.host, options.port)
    print(f"fake provider on {provider.base_url}", flush=True)
    if ca_file:
        print(f"ca file {ca_file}", flush=True)
    await stopped.wait()
    await provider.stop()
    if journal:
        journal.close()


def _script(text: str) -> Script:
    return msgspec.json.decode(text, type=Script)


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.fake_provider", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--journal", type=Path, help="write what was served here, as JSON lines")
    parser.add_argument("--no-requests", action="store_true", help="do not keep what was received")
    parser.add_argument("--tls", action="store_true", help="serve https, with a new authority")
    parser.add_argument("--script", type=_script, default=_PLAIN, help="default script, as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        uvloop.run(_serve(options, Path(folder)))


if __name__ == "__main__":
    main()
