"""The switch of enforcement in the store: read it, throw it."""

import msgspec

from gateway.core.acts import Act
from gateway.core.enforcement import SwitchedOff, switch_text
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys
from gateway.store.limits import server_ms
from gateway.store.scripts import load_script


async def read_switch(connection: StoreConnection, names: TenantKeys) -> str:
    """Return what the store has of the switch, '' while enforcement is on. Raises StoreError."""
    return str(await connection.execute("GET", names.enforcement) or "")


async def switch_enforcement(
    connection: StoreConnection,
    names: TenantKeys,
    act: Act,
    *,
    enabled: bool,
    lasting_s: int | None = None,
) -> SwitchedOff | None:
    """Switch enforcement for the next call on every gateway, on record; return how it stands.

    Switched off for `lasting_s` it is on again by itself, by the store's clock. A store that loses
    its data enforces. Raises StoreError.
    """
    off = None
    if not enabled:
        now_ms = await server_ms(connection)
        until_ms = None if lasting_s is None else now_ms + lasting_s * 1000
        off = SwitchedOff(act.actor, act.reason, now_ms, until_ms, act.details.get("token"))
    await connection.run(
        load_script("switch"),
        [names.clock, names.enforcement, names.ledger],
        [
            "",
            switch_text(off) if off else "",
            lasting_s * 1000 if off and lasting_s is not None else "",
            msgspec.json.encode(act),
        ],
    )
    return off
