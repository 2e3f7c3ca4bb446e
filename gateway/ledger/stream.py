"""One tenant's stream as its consumer sees it: read, confirm, trim.

There is one consumer, whoever holds the ledger's lock, under one name: so what a writer that died
had read and not confirmed is its successor's to begin with. Entries are trimmed once they are
confirmed, and confirmed once the database has committed them.
"""

from gateway.core.errors import StoreError
from gateway.ledger.entries import Entry
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys

GROUP = "ledger"
_CONSUMER = "writer"
_NEW, _UNCONFIRMED = ">", "0"


class LedgerStream:
    """The consumer group of one tenant's stream. Every method raises StoreError."""

    def __init__(self, connection: StoreConnection, tenant: str) -> None:
        self._connection = connection
        self._names = TenantKeys(tenant)
        self._recovering = True

    def recover(self) -> None:
        """Begin again with what was read and never confirmed."""
        self._recovering = True

    async def open(self) -> None:
        """Make the group if there is none, from the stream's first entry on."""
        try:
            await self._connection.execute(
                "XGROUP", "CREATE", self._names.ledger, GROUP, "0", "MKSTREAM"
            )
        except StoreError as error:
            if error.reason != "busygroup":
                raise

    async def read(self, most: int) -> list[Entry]:
        """Return the next entries, those first that were read and never confirmed."""
        if self._recovering:
            entries = await self._read(_UNCONFIRMED, most)
            if entries:
                return entries
            self._recovering = False
        return await self._read(_NEW, most)

    async def _read(self, start: str, most: int) -> list[Entry]:
        reply = await self._connection.execute(
            *("XREADGROUP", "GROUP", GROUP, _CONSUMER, "COUNT", most),
            *("STREAMS", self._names.ledger, start),
        )
        if not reply:
            return []
        return [
            (entry_id, dict(zip(raw[::2], raw[1::2], strict=True)) if raw else {})
            for entry_id, raw in reply[0][1]
        ]

    async def confirm(self, entries: list[Entry]) -> None:
        """Take note that the database has these, the oldest there are; then trim them."""
        ids = [entry_id for entry_id, _ in entries]
        milliseconds, _, number = ids[-1].partition("-")
        await self._connection.execute("XACK", self._names.ledger, GROUP, *ids)
        await self._connection.execute(
            "XTRIM", self._names.ledger, "MINID", "=", f"{milliseconds}-{int(number) + 1}"
        )

    async def has_all_up_to(self, entry_id: str) -> bool:
        """Return whether everything up to an entry is confirmed."""
        if _place(entry_id) == (0, 0):
            return True
        for raw in await self._connection.execute("XINFO", "GROUPS", self._names.ledger):
            group = dict(zip(raw[::2], raw[1::2], strict=True))
            if group["name"] == GROUP and _place(group["last-delivered-id"]) >= _place(entry_id):
                waiting = await self._connection.execute(
                    "XPENDING", self._names.ledger, GROUP, "-", entry_id, 1
                )
                return not waiting
        return False


def _place(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)
