"""Gateway keys in a real store: written once, changed by one at a time, copied by workers."""

import asyncio

import pytest
import redis
from msgspec import structs

from gateway.core.errors import BadCall
from gateway.core.keys import Credential, GatewayKey, changed, secret_digest
from gateway.store.key_store import KeyExists, KeyRing, KeyStore
from gateway.store.keys import TenantKeys
from gateway.store.redis_store import RedisStore

SECRET = b"s" * 40


@pytest.fixture
def keys(store: RedisStore) -> KeyStore:
    return KeyStore(store.connection)


@pytest.fixture
def key(tenant: str) -> GatewayKey:
    """A key of the test's tenant; ids are of the whole installation."""
    key_id = f"{abs(hash(tenant)) % 10**8:08d}"
    return GatewayKey(key_id, secret_digest(SECRET), "an agent", tenant=tenant, team="search")


class Wall:
    """A clock on the wall."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


async def test_what_is_written_is_read(keys: KeyStore, key: GatewayKey) -> None:
    assert await keys.read(key.id) is None
    await keys.add(key)
    assert await keys.read(key.id) == key
    assert key in await keys.read_all()
    with pytest.raises(KeyExists):
        await keys.add(structs.replace(key, name="another"))


async def test_a_change_leaves_its_version_in_the_tenants_slot(
    keys: KeyStore, key: GatewayKey, redis_client: redis.Redis
) -> None:
    await keys.add(key)
    revoked = await keys.change(key.id, lambda old: changed(old, revoked_ms=7))
    assert revoked is not None
    assert (revoked.revoked_ms, revoked.version) == (7, 2)
    assert redis_client.hget(TenantKeys(key.tenant).key_versions, key.id) == "2"
    assert await keys.change("00000000x", lambda old: old) is None


async def test_changes_at_once_are_all_made(keys: KeyStore, key: GatewayKey) -> None:
    await keys.add(key)
    await asyncio.gather(*(keys.change(key.id, changed) for _ in range(20)))
    now = await keys.read(key.id)
    assert now is not None
    assert now.version == 21


async def test_a_worker_keeps_copies(keys: KeyStore, key: GatewayKey) -> None:
    """Until they are a few seconds old, or are found to be stale."""
    await keys.add(key)
    wall = Wall()
    ring, credential = KeyRing(keys, wall), Credential(key.id, SECRET, b"x-api-key")
    assert await ring.key_of(credential) == key
    await keys.change(key.id, lambda old: changed(old, name="renamed"))
    assert (await ring.key_of(credential)).name == key.name
    ring.forget(key.id)
    assert (await ring.key_of(credential)).name == "renamed"
    await keys.change(key.id, lambda old: changed(old, revoked_ms=1))
    wall.now_ms += 5_001
    with pytest.raises(BadCall, match="revoked") as raised:
        await ring.key_of(credential)
    assert raised.value.code == "invalid_key"


async def test_whether_there_are_keys_is_looked_at_now_and_then(
    keys: KeyStore, key: GatewayKey
) -> None:
    """Every few seconds until there is one, then never again; another tenant's are none."""
    wall = Wall()
    ring, other = (KeyRing(keys, wall, TenantKeys(name)) for name in (key.tenant, "acme-none"))
    assert not await ring.are_in_use()
    await keys.add(key)
    assert not await ring.are_in_use()
    wall.now_ms += 5_001
    assert await ring.are_in_use()
    assert not await other.are_in_use()


async def test_another_tenant_s_key_is_nobody_s(keys: KeyStore, key: GatewayKey) -> None:
    """Though its secret is right; at its own tenant's gateway it is good."""
    await keys.add(structs.replace(key, tenant="acme"))
    credential = Credential(key.id, SECRET, b"x-api-key")
    with pytest.raises(BadCall, match="not known") as raised:
        await KeyRing(keys, Wall(), TenantKeys("default")).key_of(credential)
    assert raised.value.code == "invalid_key"
    assert (await KeyRing(keys, Wall(), TenantKeys("acme")).key_of(credential)).tenant == "acme"


async def test_who_proves_nothing_is_nobody(keys: KeyStore, key: GatewayKey) -> None:
    await keys.add(key)
    ring = KeyRing(keys, Wall())
    for credential in (
        Credential("zzzzzzzz", SECRET, b"x-api-key"),
        Credential(key.id, b"t" * 40, b"x-api-key"),
    ):
        with pytest.raises(BadCall, match="not known") as raised:
            await ring.key_of(credential)
        assert raised.value.code == "invalid_key"


async def test_a_stale_copy_is_mended_by_what_the_reserve_tells(
    keys: KeyStore, key: GatewayKey, redis_client: redis.Redis
) -> None:
    """The slot that has the version has the key; one that was revoked proves nothing any more."""
    await keys.add(key)
    wall, names = Wall(), TenantKeys(key.tenant)
    ring, credential = KeyRing(keys, wall), Credential(key.id, SECRET, b"x-api-key")
    await ring.key_of(credential)
    await keys.change(key.id, lambda old: changed(old, name="renamed"))
    text = str(redis_client.hget(names.key_versions, f"{key.id}:text"))
    ring.learn(text)
    assert (await ring.key_of(credential)).name == "renamed"
    await keys.change(key.id, lambda old: changed(old, revoked_ms=1))
    ring.learn(str(redis_client.hget(names.key_versions, f"{key.id}:text")))
    with pytest.raises(BadCall, match="revoked"):
        await ring.key_of(credential)
