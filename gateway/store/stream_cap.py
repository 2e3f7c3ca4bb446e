"""The last resort for a ledger's stream that nobody drains: the oldest entries go, loudly.

Watched by every supervisor, so that it holds while no writer lives. What is dropped is counted:
the ledger then lacks it, and `tollgate ledger verify` shows where.
"""

from dataclasses import dataclass

from gateway.ports import Recorder
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys
from gateway.store.limits import server_ms

_ALERT_PERCENT = 50


@dataclass(frozen=True, slots=True)
class StreamLag:
    """Entries that wait for the ledger, the age of the oldest, and how many were ever dropped."""

    waiting: int = 0
    lag_ms: int = 0
    lost: int = 0


class StreamCap:
    """Watches one tenant's stream. `cap` is the most entries that may wait."""

    def __init__(
        self, connection: StoreConnection, names: TenantKeys, recorder: Recorder, cap: int
    ) -> None:
        self.connection = connection
        self.names = names
        self._recorder = recorder
        self._cap = cap
        self._alerted = False

    async def look(self) -> StreamLag:
        """Return how the stream stands, after dropping what is beyond the cap. StoreError."""
        waiting = int(await self.connection.execute("XLEN", self.names.ledger))
        if waiting > self._cap:
            waiting -= await self._drop()
        filling = waiting * 100 > self._cap * _ALERT_PERCENT
        if filling and not self._alerted:
            self._recorder.event(
                "ledger_stream_filling",
                "critical",
                entries=waiting,
                cap=self._cap,
                remedy="look after the ledger's writer and its database; beyond ledger.stream_cap "
                "the oldest entries are dropped",
            )
        self._alerted = filling
        lost = int(await self.connection.execute("GET", self.names.ledger_lost) or 0)
        return StreamLag(waiting, await self._lag_ms() if waiting else 0, lost)

    async def _drop(self) -> int:
        """Drop the oldest entries, in whole nodes; return how many."""
        dropped = int(
            await self.connection.execute("XTRIM", self.names.ledger, "MAXLEN", "~", self._cap)
        )
        if dropped:
            await self.connection.execute("INCRBY", self.names.ledger_lost, dropped)
            self._recorder.event("ledger_entries_lost", "critical", entries=dropped)
        return dropped

    async def _lag_ms(self) -> int:
        first = await self.connection.execute("XRANGE", self.names.ledger, "-", "+", "COUNT", 1)
        if not first:
            return 0
        written_ms = int(str(first[0][0]).partition("-")[0])
        return max(0, await server_ms(self.connection) - written_ms)
