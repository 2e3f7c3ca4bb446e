"""Is this server fit to keep balances? Asked when the gateway starts and whenever it looks again.

An epoch key, written once, tells whether the server still has its data: if it is gone, totals were
lost (a flush, an empty replica, a wrong database), and every budget starts from nothing.
"""

import secrets

from gateway.core.errors import StoreError
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys


async def refuse_cluster(connection: StoreConnection) -> None:
    """Raise StoreError (`cluster`) for a cluster node: its other slots cannot be reached yet."""
    info = await connection.execute("INFO", "cluster")
    if "cluster_enabled:1" in info:
        raise StoreError(
            "cluster",
            "redis.url names a node of a Redis Cluster, which is not supported yet. Remedy: use a "
            "single server (keys are laid out for a cluster: one slot a tenant).",
        )


async def may_evict(connection: StoreConnection) -> bool:
    """Return whether a full server drops keys; False if it does not let itself be asked."""
    try:
        found = await connection.execute("CONFIG", "GET", "maxmemory-policy")
    except StoreError:
        return False  # an account without CONFIG: nothing can be said
    pairs = dict(zip(found[::2], found[1::2], strict=True))
    return bool(pairs.get("maxmemory-policy", "noeviction") != "noeviction")


async def epoch(connection: StoreConnection, names: TenantKeys) -> str:
    """Return the server's epoch, writing a new one if there is none."""
    fresh = secrets.token_hex(8)
    was_set = await connection.execute("SET", names.epoch, fresh, "NX")
    return fresh if was_set else str(await connection.execute("GET", names.epoch))


class EpochWatch:
    """Notices a server that lost its data while the gateway ran, or was swapped for another."""

    def __init__(self, connection: StoreConnection, names: TenantKeys) -> None:
        self._connection = connection
        self._names = names
        self._known = ""

    async def lost_data(self) -> bool:
        """Return True once for each time that the epoch has changed."""
        known, self._known = self._known, await epoch(self._connection, self._names)
        return known not in ("", self._known)
