"""The writer: drains the tenants' streams into the database, batch by batch, for ever.

Everything is made to be repeated. A batch is inserted in one transaction, then confirmed, then
trimmed; whatever dies in between, the same entries come again and change nothing. While the
database is down, entries wait in the stream and calls go on; while the store is down, there is
nothing to write.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from gateway.core.errors import LedgerError, StoreError
from gateway.core.notices import Notice, NoticeKind
from gateway.ledger.database import (
    WriterConnection,
    keep_epoch,
    known_epoch,
    ledger_errors,
    ledger_id,
    migrate,
    other_tenants,
)
from gateway.ledger.entries import Entry, EntryReader, Row, Rows
from gateway.ledger.housekeeping import Housekeeping
from gateway.ledger.insert import insert_rows
from gateway.ledger.outbox import Outbox
from gateway.ledger.schema import METADATA
from gateway.ledger.stream import LedgerStream
from gateway.ledger.verify import Comparison
from gateway.store.connection import StoreConnection
from gateway.store.examine import epoch
from gateway.store.keys import TenantKeys
from gateway.store.limits import server_ms

_BATCH = 1_000
_IDLE_S = 0.05
_LOOK_S = 1.0
_STANDBY_S = 1.0
_RETRY_S = (0.1, 0.5, 1.0, 2.0, 5.0)
_OWNER_MS = 15_000
_CLEAN_S = 3_600.0
_LAST_DRAIN_S = 5.0
# A figure out of range, a text that cannot be stored. All else is the database's own trouble: it is
# away, full, locked, not ours to write; then entries wait.
_ENTRY_AT_FAULT = (DataError, IntegrityError, OverflowError, ValueError)

Event = Callable[..., None]


@dataclass(frozen=True, slots=True)
class WriterRules:
    """How a writer goes about it. `rebuilds` tells whether it gives back what the store lost."""

    tenants: tuple[str, ...] = ("default",)
    refusal_status: int = 400
    rebuilds: bool = True
    retention_days: int = 90
    size_alert_bytes: int = 1 << 30
    tombstone_ms: int = 3_600_000


@dataclass(slots=True)
class WriterState:
    """How it is going, for metrics. `rows` counts what was inserted since it was last taken."""

    writing: bool = False
    size_bytes: int = 0
    rows: dict[str, int] = field(default_factory=dict)

    def count(self, rows: Rows) -> None:
        """Add a batch."""
        for name in METADATA.tables:
            if amount := len(getattr(rows, name, ())):
                self.rows[name] = self.rows.get(name, 0) + amount


class _Tenant:
    """What the writer knows of one tenant."""

    def __init__(self, name: str, connection: StoreConnection, refusal_status: int) -> None:
        self.name = name
        self.keys = TenantKeys(name)
        self.stream = LedgerStream(connection, name)
        self.reader = EntryReader(name, refusal_status)
        self.owned = False
        self.complained = False
        self.lost_epoch = ""  # the one that was complained about


class LedgerWriter:
    """Writes one ledger, while it holds its lock. `event` is ports.Recorder.event.

    `on_calls` is told of the rows of calls once they are written, in a thread; again if they come
    again.
    """

    def __init__(
        self,
        rules: WriterRules,
        connection: StoreConnection,
        engine: Engine,
        event: Event,
        outbox: Outbox | None = None,
        on_calls: Callable[[Sequence[Row]], None] | None = None,
    ) -> None:
        self.state = WriterState()
        self._on_calls = on_calls
        self._outbox = outbox or Outbox()
        self._rules = rules
        self._store = connection
        self._engine = engine
        self._event = event
        self._housekeeping = Housekeeping(
            connection, event, rules.retention_days, rules.size_alert_bytes
        )
        self._tenants = [_Tenant(name, connection, rules.refusal_status) for name in rules.tenants]
        self._writer: WriterConnection | None = None
        self._ledger_id = ""
        self._failures = 0
        self._next_look = self._next_clean = 0.0
        self._stopping = False

    # Life ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write until `stop` is called; then what is in the streams is still written."""
        while not self._stopping:
            try:
                if await self._open():
                    await self._write()
                else:
                    await asyncio.sleep(_STANDBY_S)
            except LedgerError as error:
                self._close()
                await self._wait_for_database(error)
        self._close()

    def stop(self) -> None:
        """End `run` soon."""
        self._stopping = True

    async def _open(self) -> bool:
        """Take the lock and bring the schema up to date; False if another process writes."""
        self._writer = await asyncio.to_thread(WriterConnection.open, self._engine)
        if self._writer is None:
            return False
        self._ledger_id = await asyncio.to_thread(self._prepare)
        self.state.writing, self._failures = True, 0
        self._next_look = 0.0
        for tenant in self._tenants:
            tenant.stream.recover()
        self._event("ledger_writer_ready", "info", database=self._engine.dialect.name)
        return True

    def _prepare(self) -> str:
        with ledger_errors():
            migrate(self._connection)
            others = other_tenants(self._connection, self._rules.tenants)
            if others:
                raise LedgerError(
                    f"the database is the ledger of tenant {others[0]}. Remedy: give each tenant "
                    "a database of its own (ledger.url, or state_dir)"
                )
            return ledger_id(self._connection)

    def _close(self) -> None:
        self.state.writing = False
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    @property
    def _connection(self) -> Connection:
        if self._writer is None:
            raise LedgerError("the ledger is not open")
        return self._writer.connection

    async def _wait_for_database(self, error: LedgerError) -> None:
        if self._failures == 0:
            self._event("ledger_database_failed", "critical", error=str(error))
        wait_s = _RETRY_S[min(self._failures, len(_RETRY_S) - 1)]
        self._failures += 1
        if not self._stopping:
            await asyncio.sleep(wait_s)

    # Write --------------------------------------------------------------------------------------

    async def _write(self) -> None:
        """Drain all streams until told to stop. Raises LedgerError."""
        clock = asyncio.get_running_loop().time
        deadline: float | None = None
        while True:
            try:
                moved = await self._round(clock())
            except StoreError as error:
                moved = False
                await self._after_store_error(error)
            if self._stopping:
                deadline = deadline or clock() + _LAST_DRAIN_S
                if not moved or clock() > deadline:
                    await self._disown()
                    return
            elif not moved:
                await asyncio.sleep(_IDLE_S)

    async def _round(self, now: float) -> bool:
        """Write one batch of each stream; return whether there was anything."""
        if now >= self._next_look:
            await self._look(now)
        moved = False
        for tenant in self._tenants:
            if tenant.owned:
                moved = await self._drain(tenant) or moved
        return moved

    async def _after_store_error(self, error: StoreError) -> None:
        """Begin again with what may have been read; a group that is gone is made anew."""
        self._next_look = 0.0
        for tenant in self._tenants:
            tenant.stream.recover()
        if error.reason != "nogroup":
            await asyncio.sleep(_RETRY_S[1])

    async def _drain(self, tenant: _Tenant) -> bool:
        entries = await tenant.stream.read(_BATCH)
        if not entries:
            return False
        rows = await asyncio.to_thread(self._insert, tenant.reader, entries)
        await tenant.stream.confirm(entries)
        if rows.rejected:
            self._event("ledger_entry_rejected", "critical", entries=len(rows.rejected))
        return True

    def _insert(self, reader: EntryReader, entries: Sequence[Entry]) -> Rows:
        """Insert a batch in one transaction; an entry that the database refuses is set aside."""
        try:
            rows = reader.rows_of(entries)
            insert_rows(self._connection, rows, self._outbox)
            self._connection.commit()
        except (SQLAlchemyError, OverflowError, ValueError) as error:
            return self._insert_in_parts(reader, entries, error)
        self.state.count(rows)
        if self._on_calls is not None:
            self._on_calls(rows.calls)
        return rows

    def _insert_in_parts(
        self, reader: EntryReader, entries: Sequence[Entry], error: Exception
    ) -> Rows:
        with ledger_errors():
            if not isinstance(error, _ENTRY_AT_FAULT):
                raise error
            self._connection.rollback()
        if len(entries) > 1:
            middle = len(entries) // 2
            first = self._insert(reader, entries[:middle])
            rest = self._insert(reader, entries[middle:])
            return Rows(rejected=first.rejected + rest.rejected)
        entry_id, fields = entries[0]
        rows = Rows(rejected=[reader.rejected(entry_id, fields, repr(error))])
        with ledger_errors():
            insert_rows(self._connection, rows, self._outbox)
            self._connection.commit()
        self.state.count(rows)
        return rows

    # Look around --------------------------------------------------------------------------------

    async def _look(self, now: float) -> None:
        """See to what is not done for each batch: whose streams, which data, how much."""
        for tenant in self._tenants:
            tenant.owned = await self._owns(tenant)
            if tenant.owned:
                await tenant.stream.open()
                await self._watch_epoch(tenant)
        self.state.size_bytes = await self._housekeeping.watch_size(self._connection)
        if now >= self._next_clean:
            self._next_clean = now + _CLEAN_S
            for tenant in self._tenants:
                await self._housekeeping.clean(self._connection, tenant.name)
        self._next_look = asyncio.get_running_loop().time() + _LOOK_S

    async def _owns(self, tenant: _Tenant) -> bool:
        """Return whether the stream is written to this ledger: only to one, or both had gaps."""
        key, ours = tenant.keys.ledger_owner, self._ledger_id
        if not await self._store.execute("SET", key, ours, "NX", "PX", _OWNER_MS):
            owner = await self._store.execute("GET", key)
            if owner not in (ours, None):
                if tenant.owned or not tenant.complained:
                    self._event(
                        "ledger_has_another_writer",
                        "critical",
                        tenant=tenant.name,
                        remedy="one ledger a Redis: share one PostgreSQL by ledger.url, or set "
                        "ledger.writer: false on all gateways but one",
                    )
                tenant.complained = True
                return False
            await self._store.execute("SET", key, ours, "PX", _OWNER_MS)
        tenant.complained = False
        return True

    async def _disown(self) -> None:
        """Let another ledger have the streams at once."""
        for tenant in self._tenants:
            if tenant.owned:
                with suppress(StoreError):
                    await self._store.execute("DEL", tenant.keys.ledger_owner)

    async def _watch_epoch(self, tenant: _Tenant) -> None:
        """Give the store back what it has lost, if its epoch is not the one that we know."""
        current = await epoch(self._store, tenant.keys)
        known = await asyncio.to_thread(self._known_epoch, tenant.name)
        if known == current:
            return
        if known is not None and not self._rules.rebuilds:
            if tenant.lost_epoch != current:
                tenant.lost_epoch = current
                await self._tell_of_loss(tenant.name, current)
                remedy = "tollgate ledger rebuild, or set ledger.rebuild: auto"
                self._event("ledger_rebuild_needed", "critical", tenant=tenant.name, remedy=remedy)
            return
        if known is not None:
            await self._tell_of_loss(tenant.name, current)
            await self._rebuild(tenant)
        await asyncio.to_thread(self._keep_epoch, tenant.name, current)

    async def _rebuild(self, tenant: _Tenant) -> None:
        self._event("ledger_rebuild_begins", "critical", tenant=tenant.name)

        async def catch_up(entry_id: str) -> None:
            while not await tenant.stream.has_all_up_to(entry_id):
                await self._drain(tenant)

        with ledger_errors():
            comparison = Comparison(self._store, tenant.name, self._connection, catch_up)
            rebuilt = await comparison.rebuild(self._rules.tombstone_ms)
        self._event(
            "ledger_rebuilt",
            "warning",
            tenant=tenant.name,
            tasks=rebuilt.restored,
            windows=rebuilt.windows,
            keys=rebuilt.keys,
            sessions=rebuilt.sessions,
        )

    async def _tell_of_loss(self, tenant: str, current: str) -> None:
        now_ms = await server_ms(self._store)
        await asyncio.to_thread(
            self._put_down, Notice(NoticeKind.STORE_LOSS, current, tenant, "", now_ms)
        )

    def _put_down(self, notice: Notice) -> None:
        with ledger_errors():
            self._outbox.insert(self._connection, [notice])
            self._connection.commit()

    def _known_epoch(self, tenant: str) -> str | None:
        with ledger_errors():
            known = known_epoch(self._connection, tenant)
            self._connection.rollback()
            return known

    def _keep_epoch(self, tenant: str, current: str) -> None:
        with ledger_errors():
            keep_epoch(self._connection, tenant, current)
