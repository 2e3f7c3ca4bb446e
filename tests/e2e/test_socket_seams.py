"""Where a WebSocket meets keys and policies: a whole worker on a real store, the journal as truth."""

import json
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import redis
import websockets
from websockets.asyncio.client import connect

from gateway.core.configuration import Rules
from gateway.core.keys import GatewayKey, changed, secret_digest
from gateway.core.loops import LoopPolicy
from gateway.core.policy import Mode, PolicySet
from gateway.core.untagged import UntaggedCallsPolicy, UntaggedEffect
from gateway.store.address import parse_store_url
from gateway.store.connection import StoreConnection
from gateway.store.key_store import KeyStore
from gateway.store.keys import TenantKeys
from loadtest.fake_provider import FakeProvider, Script
from tests.e2e.in_process import ENFORCING, InProcess, rules, worker_serving
from tests.e2e.running_gateway import until
from tests.e2e.test_websocket import closed, hear, hear_until, say

SECRET = "s" * 40
UNASKED = {"type": "input_audio_buffer.commit"}  # speech: the provider answers by itself
NO_TAGS = UntaggedCallsPolicy(mode=Mode.ENFORCE, effect=UntaggedEffect.REFUSE)


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    slow = Script(prompt_tokens=50, completion_tokens=400, chunk_delay_ms=20)
    async with FakeProvider(default=slow) as provider:
        yield provider


@pytest_asyncio.fixture
async def keys(valkey: str) -> AsyncIterator[KeyStore]:
    connection = StoreConnection(parse_store_url(valkey))
    await connection.open()
    yield KeyStore(connection)
    await connection.close()


def under(**policies: Any) -> Rules:
    return rules(policies=PolicySet((ENFORCING,), "h", unpriced_model=(), **policies))


def new_key(tenant: str, **fields: Any) -> GatewayKey:
    """Return a key of its own for one test."""
    digest = secret_digest(SECRET.encode())
    return GatewayKey(secrets.token_hex(4), digest, "an agent", tenant=tenant, **fields)


def socket(
    serving: InProcess, target: str, task: str = "T", key: GatewayKey | None = None
) -> connect:
    headers = {"x-task-id": task} if task else {}
    if key is not None:
        headers["x-tollgate-key"] = f"tg-{key.id}-{SECRET}"
    url = f"ws://127.0.0.1:{serving.port}{target}"
    return connect(url, additional_headers=headers, proxy=None, max_size=None)


def fields(valkey: str, tenant: str, task: str) -> dict[str, str]:
    with redis.Redis.from_url(valkey, decode_responses=True) as look:
        return look.hgetall(TenantKeys(tenant).task(task))


async def refused(handshake: connect) -> tuple[int, str]:
    with pytest.raises(websockets.InvalidStatus) as error:
        async with handshake:
            pass
    answer = error.value.response
    return answer.status_code, json.loads(answer.body)["error"]["code"]


async def test_a_forbidden_model_opens_no_realtime_session(
    valkey: str, tenant: str, provider: FakeProvider, keys: KeyStore
) -> None:
    key = new_key(tenant, models=("gpt-realtime-mini",))
    await keys.add(key)
    async with worker_serving(valkey, provider.base_url, tenant) as serving:
        handshake = socket(serving, "/v1/realtime?model=gpt-realtime", key=key)
        assert await refused(handshake) == (403, "forbidden_model")
    assert not provider.sockets


async def test_a_session_without_a_task_is_refused_where_calls_are(
    valkey: str, tenant: str, provider: FakeProvider
) -> None:
    in_force = under(untagged_calls=(NO_TAGS,))
    async with worker_serving(valkey, provider.base_url, tenant, in_force) as serving:
        handshake = socket(serving, "/v1/realtime?model=gpt-realtime", task="")
        assert await refused(handshake) == (400, "tags_required")
    assert not provider.sockets


async def test_what_a_key_no_longer_allows_is_charged_all_the_same(
    valkey: str, tenant: str, provider: FakeProvider, keys: KeyStore
) -> None:
    """The transcription's model is not the key's to use: it was made, and is paid for."""
    key = new_key(tenant, models=("gpt-realtime",))
    await keys.add(key)
    provider.script(lambda _: Script(prompt_tokens=50, completion_tokens=5))
    async with worker_serving(valkey, provider.base_url, tenant) as serving:
        async with socket(serving, "/v1/realtime?model=gpt-realtime", key=key) as connection:
            await say(connection, {"type": "response.create"})
            await hear_until(connection, "response.done")
            provider.script(None)
            transcription = {"audio": {"input": {"transcription": {"model": "gpt-transcribe"}}}}
            await say(connection, {"type": "session.update", "session": transcription})
            await say(connection, UNASKED)
            heard = await hear_until(connection, "error")
            assert heard[-1]["code"] == "forbidden_model"
            assert (await closed(connection))[0] == 1008
        await until(lambda: int(fields(valkey, tenant, "T").get("calls.S", 0)) == 3)
    assert int(fields(valkey, tenant, "T")["tokens.S"]) >= 55 + 16


async def test_what_was_turned_away_begins_no_task(
    valkey: str, tenant: str, provider: FakeProvider, keys: KeyStore
) -> None:
    """The key may have one open task: what runs for a second one is paid from its bucket."""
    key = new_key(tenant, open_tasks=1)
    await keys.add(key)
    target = "/v1/realtime?model=gpt-realtime"
    async with worker_serving(valkey, provider.base_url, tenant) as serving:
        provider.script(lambda _: Script(prompt_tokens=50, completion_tokens=5))
        async with socket(serving, target, key=key) as connection:
            await say(connection, UNASKED)
            await hear_until(connection, "response.done")
        provider.script(None)
        async with socket(serving, target, "U", key) as connection:
            await say(connection, UNASKED)
            assert (await hear_until(connection, "error"))[-1]["code"] == "spend_limit_exceeded"
            assert (await closed(connection))[0] == 1008
        bucket = f"-{key.id}"
        await until(lambda: int(fields(valkey, tenant, bucket).get("calls.S", 0)) == 2)
    assert int(fields(valkey, tenant, bucket)["tokens.S"]) >= 16
    assert fields(valkey, tenant, "U") == {}


async def test_a_snapshot_is_the_model_that_was_asked_for(
    valkey: str, tenant: str, provider: FakeProvider, keys: KeyStore
) -> None:
    """A session says `gpt-realtime-2025-08-28` where `gpt-realtime` was asked for; no other name passes."""
    provider.script(lambda _: Script(prompt_tokens=50, completion_tokens=5))
    key = new_key(tenant, models=("gpt-realtime",))
    await keys.add(key)
    async with worker_serving(valkey, provider.base_url, tenant) as serving:
        async with socket(serving, "/v1/realtime?model=gpt-realtime", key=key) as connection:
            for model, heard in (
                ("gpt-realtime-2025-08-28", "response.done"),
                ("gpt-realtime-pro-2025-08-28", "error"),
            ):
                await say(connection, {"type": "session.update", "session": {"model": model}})
                await hear_until(connection, "session.updated")
                await say(connection, {"type": "response.create"})
                assert (await hear_until(connection, "response.done", "error"))[-1]["type"] == heard
    assert len(provider.journal) == 1


async def test_a_model_that_was_refused_names_nothing_that_follows(
    valkey: str, tenant: str, provider: FakeProvider, keys: KeyStore
) -> None:
    provider.script(lambda _: Script(prompt_tokens=50, completion_tokens=5))
    key = new_key(tenant, models=("gpt-5.6",))
    await keys.add(key)
    async with worker_serving(valkey, provider.base_url, tenant) as serving:
        async with socket(serving, "/v1/responses", key=key) as connection:
            for model, heard in (("gpt-5.6", "response.completed"), ("o9", "error")):
                await say(connection, {"type": "response.create", "model": model, "input": "hi"})
                await hear_until(connection, heard)
            await say(connection, {"type": "response.steer", "input": "go on"})
            await hear_until(connection, "response.completed")
        await until(lambda: int(fields(valkey, tenant, "T").get("calls.S", 0)) == 2)
    truth = provider.totals()
    used = truth.prompt_tokens + truth.completion_tokens
    assert int(fields(valkey, tenant, "T")["tokens.S"]) == used


async def test_a_key_that_is_revoked_ends_its_sockets_with_the_next_response(
    valkey: str, tenant: str, provider: FakeProvider, keys: KeyStore
) -> None:
    provider.script(lambda _: Script(prompt_tokens=50, completion_tokens=5))
    key = new_key(tenant)
    await keys.add(key)
    create = {"type": "response.create", "model": "gpt-5.6", "input": "hi"}
    async with worker_serving(valkey, provider.base_url, tenant) as serving:
        async with socket(serving, "/v1/responses", key=key) as connection:
            await say(connection, create)
            await hear_until(connection, "response.completed")
            await keys.change(key.id, lambda known: changed(known, revoked_ms=1))
            await say(connection, create)
            assert (await hear(connection))["code"] == "invalid_key"
            assert (await closed(connection))[0] == 1008
    assert len(provider.journal) == 1


async def test_a_conversation_at_the_provider_is_no_loop(
    valkey: str, tenant: str, provider: FakeProvider
) -> None:
    """Each response of a realtime session is asked for by the same words, or by none."""
    provider.script(lambda _: Script(prompt_tokens=50, completion_tokens=5))
    in_force = under(loop=(LoopPolicy(mode=Mode.ENFORCE, calls=3),))
    async with worker_serving(valkey, provider.base_url, tenant, in_force) as serving:
        async with socket(serving, "/v1/realtime?model=gpt-realtime") as connection:
            for event in [{"type": "response.create"}] * 4 + [UNASKED] * 4:
                await say(connection, event)
                assert (await hear_until(connection, "response.done", "error"))[-1][
                    "type"
                ] != "error"


async def test_GW13_a_loop_over_a_socket(valkey: str, tenant: str, provider: FakeProvider) -> None:
    """Events that differ in their ids only are the same request."""
    provider.script(lambda _: Script(prompt_tokens=50, completion_tokens=5))
    in_force = under(loop=(LoopPolicy(mode=Mode.ENFORCE, calls=3),))
    heard = []
    async with worker_serving(valkey, provider.base_url, tenant, in_force) as serving:
        async with socket(serving, "/v1/responses") as connection:
            for number in range(3):
                names = {"event_id": f"e{number}", "stream_id": f"s{number}"}
                event = {"type": "response.create", "model": "gpt-5.6", "input": "hi", **names}
                await say(connection, event)
                heard += (await hear_until(connection, "response.completed", "error"))[-1:]
    assert [event["type"] for event in heard] == ["response.completed"] * 2 + ["error"]
    assert heard[-1]["code"] == "loop_detected"
