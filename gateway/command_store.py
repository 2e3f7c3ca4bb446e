"""The store as commands of the command line meet it, beside the gateway that runs."""

from gateway.core.errors import StoreError
from gateway.settings import Settings
from gateway.store.address import parse_store_url
from gateway.store.connection import StoreConnection
from gateway.store.embedded import EmbeddedStore

_STORE_TIMEOUT_MS = 10_000


async def open_store(settings: Settings) -> StoreConnection:
    """Return a connection to the store that a gateway with these settings uses.

    Raises StoreError with the remedy; the embedded store is there only while its gateway runs.
    """
    url = settings.redis.url or EmbeddedStore(settings.state_dir).url
    connection = StoreConnection(parse_store_url(url), _STORE_TIMEOUT_MS)
    try:
        await connection.open()
    except StoreError as error:
        where = "redis.url" if settings.redis.url else "the embedded store, which its gateway runs"
        raise StoreError(
            error.reason, f"{error} ({where}). Remedy: start the gateway, or correct redis.url."
        ) from None
    return connection
