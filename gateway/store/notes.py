"""Acts on the gateway itself, its keys and its files, told to the ledger's audit."""

import msgspec

from gateway.core.acts import Act
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys
from gateway.store.scripts import load_script


async def note_act(connection: StoreConnection, names: TenantKeys, subject: str, act: Act) -> None:
    """Put an act on record; `subject` is `key:<id>` or `files:<which>`. Raises StoreError."""
    await connection.run(
        load_script("note"), [names.clock, names.ledger], ["", subject, msgspec.json.encode(act)]
    )
