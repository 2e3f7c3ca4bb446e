"""The composition root: builds a worker's parts, and hands them to each other. Nothing else wires.

Run as `python -m gateway.app <control fd> <listener fd>` by the supervisor. The real clock, random
ids and process signals enter here. The admin plane's half is imported only where it is built.
"""

import asyncio
import gc
import os
import secrets
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from gateway.control import Ready, Start, Telemetry, UseRules, UsesRules, frame, receive
from gateway.core.configuration import DataPlane, Rules
from gateway.core.errors import StoreError
from gateway.lifecycle import Lifecycle
from gateway.ports import ClientEnd, Doors, Downstream, NewCallId, Request
from gateway.server.data_server import DataServer
from gateway.server.refusals import Refusals
from gateway.server.tls import server_tls
from gateway.socket_lifecycle import SocketLifecycle
from gateway.store.address import parse_store_url
from gateway.store.connection import StoreConnection
from gateway.store.guard import GuardedStore
from gateway.store.journal import Journal
from gateway.store.key_store import KeyRing, KeyStore
from gateway.store.keys import TenantKeys
from gateway.store.redis_store import RedisStore
from gateway.telemetry.counters import Counters
from gateway.telemetry.event_log import EventLog
from gateway.telemetry.recorder import CountingRecorder
from gateway.tokenizer import TiktokenCounter
from gateway.upstream.providers import Providers

if TYPE_CHECKING:
    from aiohttp import web

    from gateway.admin.api import AdminParts
    from gateway.admin.parts import LedgerFollower, ReadOutbox, ReadPage, ReadReport, ReadStatistics
    from gateway.core.statistics import Statistics
    from gateway.reports.report import Report
    from gateway.store.correction import Charge
    from gateway.store.task_view import TaskView

_SWITCH_S = 1.0
_TELEMETRY_S = 1.0
_FLUSH_S = 0.1
_SETTLE_WAIT_S = 5.0
_GC_THRESHOLD = 20_000  # a call leaves few cycles behind; the default of 700 looks every few calls


class TaskGroup:
    """The app's tasks: each is referenced until it ends, and none is forgotten at the end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` to its end."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self, wait_s: float) -> None:
        """Wait for all tasks, then cancel those that are left."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=wait_s)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def new_call_ids() -> NewCallId:
    """Return a source of call ids: unique over all workers, made without asking anybody."""
    prefix, numbers = f"c{secrets.token_hex(8)}-", count(1)
    return lambda: f"{prefix}{next(numbers):x}"


def wall_ms() -> int:
    """Return the time of day, milliseconds since the epoch."""
    return int(time.time() * 1000)


def event_log(form: str, level: str, source: str) -> EventLog:
    """Return the log on stderr."""
    return EventLog(sys.stderr.buffer, time.time, form=form, level=level, source=source)


def build_admin(parts: "AdminParts") -> "web.Application":
    """Return the admin plane's application."""
    from gateway.admin.api import build_admin as build

    return build(parts)


def charge_reader(ledger_url: str) -> "Callable[[str, str], Charge | None]":
    """Return what reads charges from the ledger; SQL is loaded when somebody asks for one."""

    def read(tenant: str, call_id: str) -> "Charge | None":
        from gateway.ledger.charges import read_charge

        return read_charge(ledger_url, tenant, call_id)

    return read


def outbox_reader(ledger_url: str) -> "ReadOutbox":
    """Return what reads the outbox; SQL is loaded when somebody asks for it."""

    def read(
        table: str, tenant: str, task: str, state: str, most: int
    ) -> "Sequence[Mapping[str, Any]]":
        from gateway.ledger.outbox import read_queue

        return read_queue(ledger_url, table, tenant, task=task, state=state, most=most)

    return read


def page_reader(ledger_url: str) -> "ReadPage":
    """Return what reads breaches and audit entries; SQL is loaded when somebody asks for them."""

    def read(
        table: str, tenant: str, wanted: "Mapping[str, str]", below: int | None, most: int
    ) -> "Sequence[Mapping[str, Any]]":
        from gateway.ledger.pages import read_page

        return read_page(ledger_url, table, tenant, wanted, below, most)

    return read


def report_reader(ledger_url: str) -> "ReadReport":
    """Return what makes reports; SQL is loaded when somebody asks for one."""

    def read(tenant: str, task: str, view: "TaskView | None", now_ms: int) -> "Report | None":
        from gateway.reports.reading import read_report

        return read_report(ledger_url, tenant, task, view, now_ms)

    return read


def statistics_reader(ledger_url: str) -> "ReadStatistics":
    """Return what reads a period's figures; SQL is loaded when somebody asks for them."""

    def read(tenant: str, since_ms: int, until_ms: int, by_complexity: bool) -> "Statistics":
        from gateway.ledger.statistics import read_statistics

        return read_statistics(ledger_url, tenant, since_ms, until_ms, by_complexity)

    return read


def ledger_follower(ledger_url: str) -> "Callable[[], LedgerFollower]":
    """Return what makes readers that keep the ledger open; SQL is loaded when one is made."""

    def make() -> "LedgerFollower":
        from gateway.ledger.pages import FollowedLedger

        return FollowedLedger(ledger_url)

    return make


class Worker:
    """One data-plane process: a listener it inherited, a store connection, pools of upstreams."""

    def __init__(
        self,
        plane: DataPlane,
        rules: Rules,
        writer: asyncio.StreamWriter,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._plane = plane
        self._writer = writer
        self._counters = Counters()
        self._log = event_log(plane.log_format, plane.log_level, f"worker-{os.getpid()}")
        self._recorder = CountingRecorder(self._counters, self._log, log_calls=plane.log_calls)
        self._connection = StoreConnection(parse_store_url(plane.store_url), plane.store_timeout_ms)
        self._upstreams = Providers(plane.upstreams, loop)
        self._calls, self._loops = TaskGroup(), TaskGroup()
        refusals, call_ids = Refusals(plane.refusal_status), new_call_ids()
        store = RedisStore(
            self._connection,
            lease_ms=plane.lease_ms,
            tombstone_ms=plane.tombstone_ms,
            phase_idle_close_ms=plane.phase_idle_close_ms,
        )
        self._journal = Journal(Path(plane.journal_dir), secrets.token_hex(8))
        self._guard = GuardedStore(store, self._journal, self._recorder, time.monotonic)
        self._tokenizer = TiktokenCounter()
        doors = Doors(
            store=self._guard,
            keys=KeyRing(KeyStore(self._connection), wall_ms, TenantKeys(plane.tenant)),
            upstreams=self._upstreams,
            wording=refusals,
            recorder=self._recorder,
            tokenizer=self._tokenizer,
            clock=time.monotonic,
            new_call_id=call_ids,
        )
        self._lifecycle = Lifecycle(plane, rules, doors)
        self._sockets = SocketLifecycle(plane, self._lifecycle.metering, doors, self._upstreams)
        self._server = DataServer(
            plane, self._carry, refusals, self._recorder, time.monotonic, call_ids, tls
        )
        self._server.take_sockets(self._carry_socket)

    def _carry(self, request: Request, downstream: Downstream) -> None:
        self._calls.spawn(self._lifecycle.carry(request, downstream))

    def _carry_socket(self, request: Request, client: ClientEnd) -> None:
        self._calls.spawn(self._sockets.carry(request, client))

    def use_rules(self, rules: Rules) -> None:
        """Use other rules from the next call on, and say so."""
        self._lifecycle.metering.use_rules(rules)
        self._writer.write(frame(UsesRules()))

    async def start(self, listener: socket.socket) -> None:
        """Accept calls; a store that is not there yet is connected to later."""
        await self._connection.open_or_keep_trying()
        await self._server.start(listener)
        self._loops.spawn(self._heartbeat())
        if self._plane.tracking:
            self._loops.spawn(self._look_at_switch())
        self._loops.spawn(self._guard.keep_replaying())
        self._loops.spawn(self._report())
        self._loops.spawn(self._flush_log())
        self._writer.write(frame(Ready(os.getpid())))

    async def stop(self) -> None:
        """Finish open calls and settle them, then close everything."""
        deadline = time.monotonic() + self._plane.drain_ms / 1000
        await self._server.drain()
        # What is still open at a provider then is read on for its usage, without a client.
        await self._upstreams.close(max(0.0, deadline - time.monotonic()))
        await self._calls.finish(_SETTLE_WAIT_S)
        await self._loops.finish(0)
        await self._tokenizer.close()
        self._tell()
        self._journal.close()
        await self._connection.close()
        self._log.flush()

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(self._plane.heartbeat_ms / 1000)
            try:
                await self._lifecycle.metering.heartbeat()
            except StoreError as error:
                self._recorder.event("heartbeat_failed", "warning", reason=error.reason)

    async def _look_at_switch(self) -> None:
        while True:
            await self._lifecycle.metering.look_at_switch()
            await asyncio.sleep(_SWITCH_S)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(_TELEMETRY_S)
            self._tell()

    def _tell(self) -> None:
        if not self._writer.is_closing():
            metering, counted = self._lifecycle.metering, self._counters.take()
            priced = metering.models_in_use.take_news()
            news = Telemetry(counted, metering.open_calls, self._guard.is_well, priced)
            self._writer.write(frame(news))

    async def _flush_log(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_S)
            self._log.flush()


async def run_worker(control: socket.socket, listener: socket.socket) -> None:
    """Run a worker until SIGTERM, or until the supervisor is gone."""
    reader, writer = await asyncio.open_connection(sock=control)
    first = await receive(reader)
    if not isinstance(first, Start):
        raise TypeError("the first message must be Start")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    tls = server_tls(first.tls) if first.tls else None
    worker = Worker(first.plane, first.rules, writer, tls)
    await worker.start(listener)
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 20)
    listening = loop.create_task(_listen(reader, worker, stop))
    await stop.wait()
    await worker.stop()
    listening.cancel()
    writer.close()


async def _listen(reader: asyncio.StreamReader, worker: Worker, stop: asyncio.Event) -> None:
    try:
        while True:
            message = await receive(reader)
            if isinstance(message, UseRules):
                worker.use_rules(message.rules)
    except (asyncio.IncompleteReadError, ConnectionError):
        stop.set()


def main() -> None:
    """Run a worker on the inherited control socket and listener."""
    control, listener = (socket.socket(fileno=int(fd)) for fd in sys.argv[1:3])
    uvloop.run(run_worker(control, listener))


if __name__ == "__main__":
    main()
