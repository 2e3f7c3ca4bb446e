"""The guard fails fast while the store is away, and forgets nothing of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.core.errors import StoreError
from gateway.ports import BackgroundCall, CallRecord
from gateway.store.address import parse_store_url
from gateway.store.connection import StoreConnection
from gateway.store.guard import Breaker, GuardedStore
from gateway.store.journal import Journal
from gateway.store.redis_store import RedisStore
from tests.store.agent import Agent, Look, settlement
from tests.store.valkey_server import ValkeyServer


class Events:
    """A recorder that remembers names."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def event(self, name: str, level: str = "info", **fields: Any) -> None:
        self.names.append(name)

    def call(self, record: CallRecord) -> None: ...


class Clock:
    """Seconds that pass only when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_breaker_opens_after_failures_in_a_row() -> None:
    """Then one probe per half second passes; its success closes the breaker."""
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(2):
        breaker.failed()
    breaker.succeeded()
    for _ in range(3):
        breaker.enter()
        breaker.failed()
    with pytest.raises(StoreError) as error:
        breaker.enter()
    assert error.value.reason == "breaker_open"
    clock.now += 0.51
    breaker.enter()
    with pytest.raises(StoreError):
        breaker.enter()
    breaker.succeeded()
    breaker.enter()
    assert breaker.is_closed


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def guard(store: RedisStore, folder: Path, events: Events, clock: Clock) -> GuardedStore:
    return GuardedStore(store, Journal(folder, "w"), events, clock)


async def test_a_well_store_is_passed_through(
    store: RedisStore, tenant: str, look: Look, tmp_path: Path, events: Events, clock: Clock
) -> None:
    """Reserve, heartbeat, settle and release are the store's own; nothing is journalled."""
    guarded, agent = guard(store, tmp_path, events, clock), Agent(store, tenant)
    plan, other = agent.plan("VERIFY"), agent.plan("VERIFY")
    assert (await guarded.reserve(plan)).held_tokens == 17_048
    await guarded.reserve(other)
    assert guarded.facts_of(tenant, "T") == await guarded.read_facts(tenant, "T")
    assert await guarded.heartbeat(tenant, [(plan, 0, 0)]) == {}
    assert (await guarded.settle(settlement(plan))).tokens_after == 15_800
    await guarded.release(other)
    assert guarded.is_well
    assert await guarded.replay() == 0
    assert list(tmp_path.iterdir()) == []


async def test_looking_up_facts_counts_for_the_breaker(
    start_valkey: Callable[..., ValkeyServer],
    tenant: str,
    tmp_path: Path,
    events: Events,
    clock: Clock,
) -> None:
    """A probe that looks up facts closes the breaker like any other; failures open it."""
    server = start_valkey()
    connection = StoreConnection(parse_store_url(server.url), 200)
    await connection.open()
    guarded = guard(RedisStore(connection), tmp_path, events, clock)
    server.freeze()
    for _ in range(3):
        with pytest.raises(StoreError):
            await guarded.read_facts(tenant, "T")
    assert events.names == ["store_breaker_opened"]
    server.thaw()
    clock.now += 1.0
    assert await guarded.read_facts(tenant, "T") is None
    assert guarded.is_well
    await connection.close()


async def test_whose_a_response_is_waits_in_the_journal_too(
    start_valkey: Callable[..., ValkeyServer],
    tenant: str,
    tmp_path: Path,
    events: Events,
    clock: Clock,
) -> None:
    """Failures count for the breaker, whoever met them; what was to be remembered is replayed."""
    server = start_valkey()
    connection = StoreConnection(parse_store_url(server.url), 200)
    await connection.open()
    guarded = guard(RedisStore(connection), tmp_path, events, clock)
    background = BackgroundCall(Agent(RedisStore(connection), tenant).plan("PLAN"), None)
    server.freeze()
    await guarded.remember_response(tenant, "resp_1", background)
    for _ in range(2):
        with pytest.raises(StoreError):
            await guarded.recall_response(tenant, "resp_1")
    assert events.names == ["journalled", "store_breaker_opened"]
    assert not guarded.is_well
    server.thaw()
    clock.now += 1.0
    assert await guarded.recall_response(tenant, "resp_2") is None
    assert guarded.is_well  # it was the probe
    assert await guarded.replay() == 1
    assert await guarded.recall_response(tenant, "resp_1") == background
    await connection.close()


async def test_what_a_dead_store_missed_is_replayed_once(
    start_valkey: Callable[..., ValkeyServer],
    tenant: str,
    tmp_path: Path,
    events: Events,
    clock: Clock,
) -> None:
    """Settlements and releases wait in the journal; replaying them twice changes nothing."""
    server = start_valkey("--appendonly", "yes")
    connection = StoreConnection(parse_store_url(server.url), 200)
    await connection.open()
    store = RedisStore(connection)
    guarded, agent = guard(store, tmp_path / "j", events, clock), Agent(store, tenant)
    used, unused = agent.plan("VERIFY"), agent.plan("VERIFY")
    await guarded.reserve(used)
    await guarded.reserve(unused)
    server.kill()
    for _ in range(3):
        with pytest.raises(StoreError):
            await guarded.reserve(agent.plan())
    assert not guarded.is_well
    assert not (await guarded.settle(settlement(used))).duplicate
    await guarded.release(unused)
    saved = [(path, path.read_bytes()) for path in (tmp_path / "j").iterdir()]
    assert await guarded.replay() == 0  # still away: it stays
    await connection.close()

    server.start()
    again = StoreConnection(parse_store_url(server.url))
    await again.open()
    late = guard(RedisStore(again), tmp_path / "j", events, clock)
    assert await late.replay() == 2
    for path, data in saved:
        path.write_bytes(data)
    assert await late.replay() == 2
    with server.client() as client:
        found = client.hmget(f"tg:{{{tenant}}}:task:T", "tokens.S", "tokens.H", "inflight")
    assert found == ["15800", "0", "0"]
    assert {"store_breaker_opened", "journalled", "journal_replayed"} <= set(events.names)
    await again.close()


async def test_without_store_and_journal_the_caller_has_to_go_on_trying(
    valkey: str, tenant: str, tmp_path: Path, events: Events, clock: Clock
) -> None:
    """A journal that cannot be written is told, loudly."""
    unconnected = RedisStore(StoreConnection(parse_store_url(valkey)))
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    guarded, agent = guard(unconnected, blocked / "j", events, clock), Agent(unconnected, tenant)
    with pytest.raises(StoreError) as error:
        await guarded.settle(settlement(agent.plan("VERIFY")))
    assert error.value.reason == "journal_failed"
    assert "journal_failed" in events.names


async def test_an_entry_that_the_store_refuses_is_set_aside(
    store: RedisStore,
    tenant: str,
    redis_client: Any,
    tmp_path: Path,
    events: Events,
    clock: Clock,
) -> None:
    """One entry that cannot be applied does not hold up the others; a person can look at it."""
    agent = Agent(store, tenant)
    journal = Journal(tmp_path, "w")
    unconnected = RedisStore(StoreConnection(parse_store_url("unix:///nowhere")))
    failing = GuardedStore(unconnected, journal, events, clock)
    await failing.settle(settlement(agent.plan("VERIFY")))
    await failing.settle(settlement(agent.plan("VERIFY"), 700))
    journal.close()
    [file] = tmp_path.glob("*.jsonl")
    call_id = file.read_text().split('"call_id":"')[1].split('"')[0]
    redis_client.set(f"tg:{{{tenant}}}:call:{call_id}", "not a hash")
    guarded = guard(store, tmp_path, events, clock)
    await guarded.replay()
    assert redis_client.hget(f"tg:{{{tenant}}}:task:T", "tokens.S") == "700"
    [rejected] = tmp_path.glob("*.rejected")
    assert call_id in rejected.read_text()
    assert "journal_entry_rejected" in events.names


async def test_a_store_that_is_back_is_noticed_without_any_call(
    start_valkey: Callable[..., ValkeyServer],
    tenant: str,
    tmp_path: Path,
    events: Events,
    clock: Clock,
) -> None:
    """Readiness may depend on it, and bring the calls back; a store that only reads is not back."""
    server = start_valkey()
    connection = StoreConnection(parse_store_url(server.url), 1_000)
    await connection.open()
    store = RedisStore(connection)
    guarded, agent = guard(store, tmp_path, events, clock), Agent(store, tenant)
    await guarded.probe()
    with server.client() as client:
        client.config_set("min-replicas-to-write", 1)  # NOREPLICAS: no write is taken
        for _ in range(3):
            with pytest.raises(StoreError):
                await guarded.reserve(agent.plan())
        clock.now += 1
        await guarded.probe()
        assert not guarded.is_well
        client.config_set("min-replicas-to-write", 0)
        await guarded.probe()
        assert not guarded.is_well  # one probe per half second
        clock.now += 1
        await guarded.probe()
    assert guarded.is_well
    await connection.close()
