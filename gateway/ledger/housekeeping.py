"""What a ledger needs now and then: old rows deleted, keys mirrored, its size watched."""

import asyncio
from collections.abc import Callable
from functools import partial

from sqlalchemy import Connection

from gateway.ledger.database import ledger_errors, size_bytes
from gateway.ledger.outbox import delete_told
from gateway.ledger.records import forget_sessions, keep_records, mirror_keys
from gateway.ledger.retention import delete_older
from gateway.ledger.windows import forget_windows
from gateway.store.connection import StoreConnection
from gateway.store.limits import server_ms

_DAY_MS = 86_400_000


class Housekeeping:
    """Keeps one ledger in order, in threads. `event` is ports.Recorder.event."""

    def __init__(
        self,
        store: StoreConnection,
        event: Callable[..., None],
        retention_days: int,
        size_alert_bytes: int,
    ) -> None:
        self._store = store
        self._event = event
        self._retention_ms = retention_days * _DAY_MS
        self._size_alert_bytes = size_alert_bytes
        self._alerted = False

    async def watch_size(self, connection: Connection) -> int:
        """Return the database's size in bytes; say so, once, when it is beyond its alert."""
        size = await asyncio.to_thread(_size, connection)
        is_large = size > self._size_alert_bytes
        if is_large and not self._alerted:
            self._event(
                "ledger_is_large",
                "error",
                bytes=size,
                limit_bytes=self._size_alert_bytes,
                remedy="lower ledger.retention_days, or raise ledger.size_alert_bytes",
            )
        self._alerted = is_large
        return size

    async def clean(self, connection: Connection, tenant: str) -> None:
        """Delete what is older than the retention, and carry its sums forward; mirror the keys.

        Raises LedgerError, StoreError.
        """
        now_ms = await server_ms(self._store)
        before_ms = now_ms - self._retention_ms
        delete = partial(_delete_older, connection, tenant, before_ms, now_ms)
        while deleted := await asyncio.to_thread(delete):
            self._event("ledger_cleaned", "info", tenant=tenant, calls=deleted)
        await asyncio.to_thread(_forget, connection, tenant, before_ms, now_ms)
        rows = await mirror_keys(self._store, tenant)  # those that the stream did not tell of
        with ledger_errors():
            await asyncio.to_thread(keep_records, connection, rows)


def _size(connection: Connection) -> int:
    with ledger_errors():
        return size_bytes(connection)


def _delete_older(connection: Connection, tenant: str, before_ms: int, now_ms: int) -> int:
    with ledger_errors():
        return delete_older(connection, tenant, before_ms, now_ms)


def _forget(connection: Connection, tenant: str, before_ms: int, now_ms: int) -> None:
    with ledger_errors():
        forget_sessions(connection, tenant, now_ms)
        forget_windows(connection, tenant, now_ms)
        delete_told(connection, tenant, before_ms)
