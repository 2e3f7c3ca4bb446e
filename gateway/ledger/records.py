"""Gateway keys and session bindings in the ledger, given back to a store that lost them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, select

from gateway.core.keys import GatewayKey
from gateway.core.sessions import Binding
from gateway.ledger.insert import insert_records
from gateway.ledger.record_rows import record_row
from gateway.ledger.schema import RECORDS
from gateway.store.connection import StoreConnection
from gateway.store.key_store import KeyStore, key_text
from gateway.store.keys import TenantKeys
from gateway.store.sessions import restore_session

_BATCH = 200
_read_key = msgspec.json.Decoder(GatewayKey).decode
_read_binding = msgspec.json.Decoder(Binding).decode


async def mirror_keys(store: StoreConnection, tenant: str) -> list[Mapping[str, Any]]:
    """Return rows of all keys of a tenant as the store has them, to be kept where they are newer.

    What the stream tells of a change is lost if its command dies in between, and keys may be older
    than the ledger.
    """
    return [
        record_row(tenant, f"key:{key.id}", key_text(key), key.version)
        for key in await KeyStore(store).read_all()
        if key.tenant == tenant
    ]


def keep_records(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep rows that are newer than what the ledger has. Commits."""
    insert_records(connection, list(map(dict, rows)))
    connection.commit()


def forget_sessions(connection: Connection, tenant: str, before_ms: int) -> None:
    """Delete bindings that have expired; within a transaction."""
    connection.execute(
        delete(RECORDS).where(RECORDS.c.tenant == tenant, RECORDS.c.expires_ms < before_ms)
    )


async def give_back_records(
    store: StoreConnection, tenant: str, ledger: Connection, go_on: Callable[[], Awaitable[None]]
) -> tuple[int, int]:
    """Give keys and bindings back that the store lacks; return how many of each it lacked.

    A key of which the store has an older version becomes what the ledger knows; a binding that was
    made since is left alone. `go_on` is as in `verify`.
    """
    found = ledger.execute(
        select(RECORDS.c.subject, RECORDS.c.document).where(
            RECORDS.c.tenant == tenant, RECORDS.c.document.is_not(None)
        )
    ).all()
    ledger.rollback()
    keys, names, counted = KeyStore(store), TenantKeys(tenant), {"key": 0, "session": 0}
    for at, (subject, document) in enumerate(found):
        if at % _BATCH == 0:
            await go_on()
        kind, _, name = subject.partition(":")
        if kind == "key":
            counted[kind] += await keys.give_back(_read_key(document))
        else:
            counted[kind] += await restore_session(store, names, name, _read_binding(document))
    return counted["key"], counted["session"]
