"""Gateway keys in the store: written by the admin plane, read by workers.

A worker's copy of a key may be old. Its version goes with every reserve, which the store compares
with the key's own in the tenant's slot (`lua/reserve.lua`): so a revoked key is stopped at its next
call on every gateway, at no further round trip. Every change is told to the ledger, which gives
keys back to a store that lost its data.
"""

from collections import OrderedDict
from collections.abc import Callable

import msgspec

from gateway.core.acts import Act
from gateway.core.errors import BadCall, StoreError
from gateway.core.keys import Credential, GatewayKey
from gateway.store.connection import Argument, StoreConnection
from gateway.store.keys import KEYS_KEY, TenantKeys
from gateway.store.scripts import load_script

_REMEMBERED = 10_000
_FRESH_MS = 5_000
_LONG_AGO_MS = -_FRESH_MS
_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(GatewayKey).decode


class KeysLost(StoreError):
    """The store lacks a key because it has lost its data: the ledger will give the key back."""

    def __init__(self, key_id: str) -> None:
        super().__init__("keys_lost", f"the store has lost the gateway key {key_id}")


class KeyExists(StoreError):
    """A new key has the id of another one."""

    def __init__(self) -> None:
        super().__init__("key_exists", "a gateway key has this id already")


class KeyStore:
    """All keys of an installation, whatever their tenants."""

    def __init__(self, connection: StoreConnection) -> None:
        self._connection = connection
        self._replace = load_script("replace_key")

    async def read(self, key_id: str) -> GatewayKey | None:
        """Return a key, None if there is none. Raises StoreError."""
        text = await self._connection.execute("HGET", KEYS_KEY, key_id)
        return _decode(text) if text is not None else None

    async def read_all(self) -> list[GatewayKey]:
        """Return all keys, oldest first. Raises StoreError."""
        texts: list[str] = await self._connection.execute("HVALS", KEYS_KEY)
        return sorted(map(_decode, texts), key=lambda key: (key.created_ms, key.id))

    async def add(self, key: GatewayKey, act: Act | None = None) -> None:
        """Write a new key; `act` is for the audit. Raises KeyExists, StoreError."""
        if not await self._write("", key):
            raise KeyExists
        await self._tell(key, act)

    async def change(
        self,
        key_id: str,
        change: Callable[[GatewayKey], GatewayKey],
        act: Act | None = None,
    ) -> GatewayKey | None:
        """Write what `change` makes of a key and return it; None if there is no such key.

        It holds with the next call everywhere once this has returned; `act` is for the audit.
        Raises StoreError.
        """
        while True:
            text = await self._connection.execute("HGET", KEYS_KEY, key_id)
            if text is None:
                return None
            key = change(_decode(text))
            if await self._write(text, key):
                await self._tell(key, act)
                return key

    async def give_back(self, key: GatewayKey) -> bool:
        """Write a key as the ledger knows it, unless the store's is as new. Raises StoreError.

        Return whether the store lacked anything of it.
        """
        while True:
            text = await self._connection.execute("HGET", KEYS_KEY, key.id)
            if text is not None and _decode(text).version >= key.version:
                return await self._give_back_version(_decode(text))
            if await self._write(text or "", key):
                return True

    async def has_any(self, names: TenantKeys | None) -> bool:
        """Return whether a tenant has keys, or anybody; revoked ones count. Raises StoreError."""
        where = KEYS_KEY if names is None else names.key_versions
        return bool(await self._connection.execute("EXISTS", where))

    async def has_lost(self, names: TenantKeys) -> bool:
        """Return whether a tenant's keys may be lost just now. Raises StoreError.

        After a loss there are neither keys nor an epoch; then the writer makes an epoch, and its
        rebuild gives keys back first of all. A new store has an epoch before it has keys.
        """
        if await self._connection.execute("EXISTS", names.ledger_rebuild):
            return True
        if await self._connection.execute("EXISTS", KEYS_KEY):
            return False
        return not await self._connection.execute("EXISTS", names.epoch)

    async def _tell(self, key: GatewayKey, act: Act | None) -> None:
        names = TenantKeys(key.tenant)
        told: list[Argument] = ["", f"key:{key.id}", _encode(key), _encode(act) if act else ""]
        await self._connection.run(load_script("record"), [names.clock, names.ledger], told)

    async def _write(self, before: str, key: GatewayKey) -> bool:
        args: list[Argument] = [key.id, before, _encode(key)]
        if not await self._connection.run(self._replace, [KEYS_KEY], args):
            return False
        # Another slot on a cluster, so it cannot be the same script; a version never runs back.
        await self._connection.execute("HSET", *_version_of(key))
        return True

    async def _give_back_version(self, key: GatewayKey) -> bool:
        """Write a key's version where its tenant's slot lacks it; return whether it did."""
        names = TenantKeys(key.tenant)
        known = await self._connection.execute("HGET", names.key_versions, key.id)
        if known is None:
            await self._connection.execute("HSET", *_version_of(key))
        return known is None


def key_text(key: GatewayKey) -> str:
    """Return a key as the store has it."""
    return _encode(key).decode()


def _version_of(key: GatewayKey) -> tuple[Argument, ...]:
    """Return what stands in the tenant's slot: the version, and the key for whoever has another."""
    names = TenantKeys(key.tenant)
    return names.key_versions, key.id, key.version, f"{key.id}:text", _encode(key)


class KeyRing:
    """A worker's copies of keys of one tenant. Bounded: the oldest go first.

    Another tenant's key is as unknown as one that was never made.
    """

    def __init__(
        self, store: KeyStore, wall_ms: Callable[[], int], names: TenantKeys | None = None
    ) -> None:
        self._store = store
        self._names = names
        self._wall_ms = wall_ms
        self._known: OrderedDict[str, tuple[int, GatewayKey]] = OrderedDict()
        self._in_use = False
        self._looked_ms = _LONG_AGO_MS

    async def key_of(self, credential: Credential) -> GatewayKey:
        """Return the key that a credential proves. Raises BadCall (`invalid_key`), StoreError.

        Keys are never deleted: where the store lacks one that was known here, it has lost its data.
        What is told of a key that nobody here knows depends on the store's state (KeysLost).
        """
        now_ms = self._wall_ms()
        read_ms, key = self._known.get(credential.key_id, (0, None))
        is_proof = key is not None and now_ms - read_ms <= _FRESH_MS and key.is_good(now_ms)
        if key is None or not is_proof or not key.has_secret(credential.secret, now_ms):
            known, key = key, await self._store.read(credential.key_id)
            if key is not None:
                self._remember(now_ms, key)
            elif known is not None or await self._may_be_lost():
                raise KeysLost(credential.key_id)
        if key is None or self._is_foreign(key) or not key.has_secret(credential.secret, now_ms):
            raise BadCall("invalid_key", "The gateway key is not known here.")
        if not key.is_good(now_ms):
            raise BadCall("invalid_key", f"The gateway key {key.id} is revoked or has expired.")
        return key

    async def are_in_use(self) -> bool:
        """See ports.Keys. Keys are never deleted: once there is one, nobody looks any more."""
        now_ms = self._wall_ms()
        if not self._in_use and now_ms - self._looked_ms > _FRESH_MS:
            self._in_use, self._looked_ms = await self._store.has_any(self._names), now_ms
        return self._in_use

    def _is_foreign(self, key: GatewayKey) -> bool:
        return self._names is not None and key.tenant != self._names.tenant

    async def _may_be_lost(self) -> bool:
        return self._names is not None and await self._store.has_lost(self._names)

    def forget(self, key_id: str) -> None:
        """Read a key anew when it is asked for next: its copy was found to be old."""
        if key_id in self._known:
            self._known[key_id] = _LONG_AGO_MS, self._known[key_id][1]

    def learn(self, text: str) -> None:
        """See ports.Keys."""
        self._remember(self._wall_ms(), _decode(text))

    def _remember(self, now_ms: int, key: GatewayKey) -> None:
        self._known[key.id] = now_ms, key
        self._known.move_to_end(key.id)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
