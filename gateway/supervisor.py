"""The parent process: owns the listeners, the embedded store, the workers and the admin plane.

A dead child is started again with backoff; a dead worker loses nothing but its open sockets. Rules
are validated here, once, and broadcast. SIGTERM or Ctrl-C drains, a second one forces; SIGUSR2
replaces the workers one by one.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import web

from gateway import __version__
from gateway.admin.api import AdminParts, Health
from gateway.admin.parts import LedgerHealth
from gateway.app import (
    TaskGroup,
    build_admin,
    charge_reader,
    event_log,
    ledger_follower,
    outbox_reader,
    page_reader,
    report_reader,
    statistics_reader,
)
from gateway.banner import banner
from gateway.child_plans import ledger_plan, translator_plan
from gateway.control import Start, TlsFiles
from gateway.core.configuration import DataPlane, Rules
from gateway.core.errors import InvalidConfigError, StoreError, TollgateError
from gateway.core.prices import ModelsInUse
from gateway.rule_keeper import RuleKeeper
from gateway.server.listener import begin_no_more
from gateway.settings import (
    Settings,
    data_plane,
    ledger_url,
    monthly_nano_usd,
    writes_reports,
)
from gateway.start_checks import (
    admin_accesses,
    admin_token,
    check_bind,
    make_state_folder,
    tls_files,
)
from gateway.store.address import parse_store_url
from gateway.store.connection import StoreConnection
from gateway.store.embedded import EmbeddedStore
from gateway.store.examine import may_evict, refuse_cluster
from gateway.store.gateways import GatewayBook
from gateway.store.journal import JournalWatch
from gateway.store.keys import TenantKeys
from gateway.store.reaper import Reaper
from gateway.store.redis_store import RedisStore
from gateway.store.stream_cap import StreamCap
from gateway.store_watch import StoreWatch, overhead_watch, own_name
from gateway.telemetry.counters import Counters
from gateway.telemetry.feed import EventFeed
from gateway.telemetry.recorder import CountingRecorder
from gateway.translator_process import TranslatorProcess
from gateway.upstream.proxy import environment_proxy
from gateway.worker_process import WorkerPlace, WorkerProcess
from gateway.writer_process import LedgerProcess

_FLUSH_S = 0.1
_BACKOFF_S = (0.1, 0.5, 1.0, 2.0, 5.0)
_KILL_AFTER_S = 8.0  # more than a worker takes behind its drain to settle and close
_APPLY_S = 5.0
_MOST_ROLLS = 2
_STORE_TIMEOUT_MS = 5_000  # of the reaper and the admin plane: nobody's call waits for them


def serve(settings: Settings, *, strict: bool) -> int:
    """Run the gateway until it is told to stop; return the exit code."""
    try:
        return uvloop.run(_serve(settings, strict=strict))
    except InvalidConfigError:
        raise
    except (TollgateError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


async def _serve(settings: Settings, *, strict: bool) -> int:
    supervisor = Supervisor(settings)
    try:
        await supervisor.start(strict=strict)
        await supervisor.run()
    finally:
        await supervisor.stop()
    return 1 if supervisor.was_forced else 0


class Supervisor:
    """One gateway: what its processes share, and their life and death."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._counters = Counters()
        self._in_use = ModelsInUse()
        self._log = event_log(settings.log.format, settings.log.level, "supervisor")
        self._feed = EventFeed()
        self._recorder = CountingRecorder(
            self._counters, self._log, log_calls=False, feed=self._feed
        )
        self._loops = TaskGroup()
        self._stopping = asyncio.Event()
        self._embedded: EmbeddedStore | None = None
        self._connection: StoreConnection | None = None
        self._admin: web.AppRunner | None = None
        self._workers: list[WorkerPlace] = []
        self._ledger: LedgerProcess | None = None
        self._translator: TranslatorProcess | None = None
        self._watch = StoreWatch()
        self.was_forced = False
        self._rolls = 0
        self._one_roll = asyncio.Lock()
        self._listeners: list[socket.socket] = []
        self._rules = RuleKeeper(settings, self._in_use, self._recorder.event, self._apply)
        self._started_at = asyncio.get_running_loop().time()

    # Start --------------------------------------------------------------------------------------

    async def start(self, *, strict: bool) -> None:
        """Start everything, in the order in which the parts need each other."""
        self._take_signals()
        settings = self._settings
        check_bind(settings)
        tls = tls_files(settings)
        make_state_folder(settings)
        rules = self._rules.load_first(strict=strict)
        data, admin = (
            self._listen(settings.server.host, settings.server.port),
            self._listen(settings.admin.host, settings.admin.port),
        )
        store_url = await self._start_store()
        plane = data_plane(settings, store_url, partial(environment_proxy, os.environ))
        store = await self._connect_store(plane)
        token = admin_token(settings)
        await self._start_admin(admin, store, plane, token.secret)
        self._start_translator()
        for number in range(settings.server.workers):
            worker = WorkerPlace(number, partial(self._process, plane, tls, data), self._spawn)
            self._workers.append(worker)
            self._spawn(self._keep_alive(worker))
        reaper = Reaper(
            store,
            [plane.tenant],
            self._recorder,
            settings.store.sweep_ms,
            settings.tasks.idle_complete_ms,
        )
        self._spawn(reaper.run())
        if settings.ledger.writer is not False:
            self._ledger = LedgerProcess(ledger_plan(settings, plane, rules), self._counters)
            self._spawn(self._keep_running(self._ledger, "ledger_writer_died"))
        self._watch_store(store, plane, admin)
        self._spawn(self._rules.watch_files())
        self._spawn(self._flush_log())
        for worker in self._workers:
            if not self._stopping.is_set():
                await worker.was_ready.wait()
        if not self._stopping.is_set():
            text = banner(settings, rules, data.getsockname(), admin.getsockname(), token)
            print(text, flush=True)

    def _watch_store(self, store: RedisStore, plane: DataPlane, admin: socket.socket) -> None:
        connection, names, recorder = store.connection, store.keys(plane.tenant), self._recorder
        stream = StreamCap(connection, names, recorder, self._settings.ledger.stream_cap)
        overhead = overhead_watch(self._settings, self._counters, connection, names, recorder)
        self._spawn(self._watch.watch_stream(stream, overhead))
        book = GatewayBook(connection, names, recorder, own_name(admin))
        self._spawn(self._watch.watch_others(book, self._rules.in_force))
        self._spawn(self._watch.watch_journal(JournalWatch(Path(plane.journal_dir))))

    def _process(
        self, plane: DataPlane, tls: TlsFiles | None, listener: socket.socket
    ) -> WorkerProcess:
        start = Start(plane, self._rules.in_force(), tls)
        return WorkerProcess(start, listener, self._counters, self._in_use)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._loops.spawn(work)

    def _start_translator(self) -> None:
        plan = translator_plan(self._settings)
        if plan is not None:
            self._translator = TranslatorProcess(plan)
            self._spawn(self._keep_running(self._translator, "translator_died"))

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self._reload("SIGHUP")))
        loop.add_signal_handler(signal.SIGUSR2, lambda: self._spawn(self.replace_workers()))

    def _told_to_stop(self) -> None:
        if self._stopping.is_set():
            self.was_forced = True
            for worker in self._workers:
                worker.kill()
        self._stopping.set()
        for worker in self._workers:
            worker.was_ready.set()  # nobody waits any longer for one that cannot start

    def _listen(self, host: str, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        self._listeners.append(listener)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise TollgateError(
                f"cannot listen on {host}:{port} ({error.strerror}). Remedy: stop what uses it, "
                "or choose another port with --port or --admin-port."
            ) from None
        listener.listen(1024)
        listener.setblocking(False)
        return listener

    async def _start_store(self) -> str:
        if self._settings.redis.url:
            return self._settings.redis.url
        self._embedded = EmbeddedStore(self._settings.state_dir, self._settings.store.valkey_binary)
        await self._embedded.start()
        self._spawn(self._keep_store_alive(self._embedded))
        return self._embedded.url

    async def _connect_store(self, plane: DataPlane) -> RedisStore:
        self._connection = StoreConnection(parse_store_url(plane.store_url), _STORE_TIMEOUT_MS)
        await self._connection.open_or_keep_trying()
        if self._connection.is_connected:
            await refuse_cluster(self._connection)
            if await may_evict(self._connection):
                self._recorder.event(
                    "store_may_evict", "error", remedy="set maxmemory-policy noeviction"
                )
        return RedisStore(
            self._connection, lease_ms=plane.lease_ms, tombstone_ms=plane.tombstone_ms
        )

    async def _start_admin(
        self, listener: socket.socket, store: RedisStore, plane: DataPlane, token: str
    ) -> None:
        url = ledger_url(self._settings)
        parts = AdminParts(
            connection=store.connection,
            names=TenantKeys(plane.tenant),
            token=token,
            health=self.health,
            counters=self._counters,
            event=self._recorder.event,
            rules=self._rules.in_force,
            plane=plane,
            read_charge=charge_reader(url),
            read_outbox=outbox_reader(url),
            read_page=page_reader(url),
            read_statistics=statistics_reader(url),
            follow_ledger=ledger_follower(url),
            reload=self._rules.reload,
            read_report=report_reader(url) if writes_reports(self._settings) else None,
            feed=self._feed,
            accesses=admin_accesses(self._settings),
            monthly_nano_usd=monthly_nano_usd(self._settings),
        )
        self._admin = web.AppRunner(build_admin(parts), access_log=None, auto_decompress=False)
        await self._admin.setup()
        await web.SockSite(self._admin, listener).start()

    # Run ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until told to stop."""
        await self._stopping.wait()

    def health(self) -> Health:
        """Return what `/readyz` says."""
        rules = self._rules.in_force()
        return Health(
            workers_ready=sum(worker.is_ready for worker in self._workers),
            workers_wanted=self._settings.server.workers,
            store_connected=self._connection is not None and self._connection.is_connected,
            config_source=rules.budgets_source,
            config_hash=rules.budgets.config_hash,
            policy_hash=rules.policies.policy_hash,
            draining=self._stopping.is_set(),
            open_calls=sum(worker.open_calls for worker in self._workers),
            uptime_s=asyncio.get_running_loop().time() - self._started_at,
            version=__version__,
            ledger=self._ledger_health(),
            workers_without_store=sum(worker.lacks_store for worker in self._workers),
            refuses_without_store=rules.budgets.stop_loss.enabled
            and not self._settings.enforcement_disabled
            and rules.policies.refuses_without_store,
            lacks_translator=self._translator is not None and not self._translator.is_ready,
            gateways_with_other_rules=self._watch.others_with_other_rules,
            enforcement_switched_off=self._watch.switched_off,
            journal_entries=self._watch.backlog.entries,
            journal_bytes=self._watch.backlog.size_bytes,
        )

    def _ledger_health(self) -> LedgerHealth:
        lag, ledger = self._watch.lag, self._ledger
        return LedgerHealth(
            writing=ledger is not None and ledger.writing,
            size_bytes=ledger.size_bytes if ledger else 0,
            alarming=ledger.alarming if ledger else {},
            waiting=lag.waiting,
            lag_ms=lag.lag_ms,
            lost=lag.lost,
        )

    async def _keep_alive(self, worker: WorkerPlace) -> None:
        """See that a worker serves, waiting longer each time it dies soon."""
        loop, failures = asyncio.get_running_loop(), 0
        while not self._stopping.is_set():
            began = loop.time()
            await worker.serve()
            if self._stopping.is_set():
                return
            failures = 0 if loop.time() - began > _BACKOFF_S[-1] else failures + 1
            self._recorder.event(
                "worker_died", "error", worker=worker.number, code=worker.exit_code
            )
            await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])

    async def _keep_store_alive(self, embedded: EmbeddedStore) -> None:
        failures = 0
        while embedded.process is not None:
            await embedded.process.wait()
            if self._stopping.is_set():
                return
            self._recorder.event("embedded_store_died", "critical")
            await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
            failures += 1
            with suppress(StoreError):
                await embedded.restart()

    async def _keep_running(self, child: LedgerProcess | TranslatorProcess, died: str) -> None:
        """Start a child again whenever it ends, waiting longer each time it ends soon."""
        loop, failures = asyncio.get_running_loop(), 0
        while not self._stopping.is_set():
            began = loop.time()
            await child.run()
            if self._stopping.is_set():
                return
            failures = 0 if loop.time() - began > _BACKOFF_S[-1] else failures + 1
            self._recorder.event(died, "error", code=child.exit_code)
            await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])

    async def _reload(self, cause: str) -> None:
        await self._rules.reload(cause)

    async def _apply(self, rules: Rules) -> None:
        """Have everybody go by new rules."""
        if self._ledger is not None:
            self._ledger.use_webhooks(rules.policies.webhook)
        with suppress(TimeoutError):  # one that hangs is no reason to hold up the next reload
            async with asyncio.timeout(_APPLY_S):
                await asyncio.gather(*(worker.use_rules(rules) for worker in self._workers))

    async def replace_workers(self) -> None:
        """Replace the workers one by one; each goes on serving until its successor is ready.

        A request while that goes on is good for one more round, however often it is made: it
        may be for something that a worker read which has just been started.
        """
        if self._rolls >= _MOST_ROLLS:
            return
        self._rolls += 1
        try:
            async with self._one_roll:
                await self._roll()
        finally:
            self._rolls -= 1

    async def _roll(self) -> None:
        wait_s = self._settings.limits.drain_ms / 1000 + _KILL_AFTER_S
        async with asyncio.TaskGroup() as draining:
            for worker in self._workers:
                if self._stopping.is_set():
                    return
                if (old := await worker.replace()) is None:
                    self._recorder.event("worker_not_replaced", "error", worker=worker.number)
                    return
                draining.create_task(old.stop(wait_s))
        self._recorder.event("workers_replaced", workers=len(self._workers))

    async def _flush_log(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_S)
            self._log.flush()

    # Stop ---------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Drain the workers, then stop what they need; nothing is left behind.

        `/readyz` says first that the gateway drains; then nobody listens for calls any more.
        """
        self._stopping.set()
        if self._listeners:
            with suppress(OSError):  # then who connects in this very moment may be reset
                begin_no_more(self._listeners[0])
            self._listeners[0].close()
        wait_s = self._settings.limits.drain_ms / 1000 + _KILL_AFTER_S
        await asyncio.gather(*(worker.stop(wait_s) for worker in self._workers))
        if self._admin is not None:
            await self._admin.cleanup()
        if self._translator is not None:
            await self._translator.stop(_KILL_AFTER_S)
        if self._ledger is not None:
            await self._ledger.stop(_KILL_AFTER_S)
        await self._loops.finish(0)
        if self._connection is not None:
            await self._connection.close()
        if self._embedded is not None:
            await self._embedded.stop()
        for listener in self._listeners:
            listener.close()
        self._log.flush()
