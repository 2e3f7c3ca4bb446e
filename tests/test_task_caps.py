"""A key that may begin no further task, as its agent meets it."""

import json

from gateway.core.keys import GatewayKey, secret_digest
from gateway.store.key_store import KeyStore
from loadtest.fake_provider import FakeProvider, Script
from tests.e2e.in_process import Bench, bench
from tests.server.client import Reply

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
SECRET = "s" * 40


async def call(serving: Bench, task: str, key_id: str) -> Reply:
    head = f"POST /t/{task}/PLAN/v1/chat/completions HTTP/1.1\r\nHost: t\r\n"
    head += f"X-Tollgate-Key: tg-{key_id}-{SECRET}\r\nContent-Length: {len(BODY)}\r\n\r\n"
    calls = len(serving.told.calls)
    async with serving.client() as client:
        reply = await client.ask(head.encode() + BODY)
        await serving.recorded(calls + 1)
    return reply


async def test_a_task_too_many_is_refused_in_every_mode(valkey: str, tenant: str) -> None:
    """Tasks that are there go on; the refusal is no failure of the store."""
    key_id = f"{abs(hash(tenant)) % 10**8:08d}"
    async with (
        FakeProvider(default=Script(prompt_tokens=10, completion_tokens=5)) as provider,
        bench(valkey, provider.base_url, tenant) as serving,
    ):
        digest = secret_digest(SECRET.encode())
        key = GatewayKey(key_id, digest, "an agent", tenant=tenant, open_tasks=1)
        await KeyStore(serving.store.connection).add(key)
        assert (await call(serving, "A", key_id)).status == 200
        refused = await call(serving, "B", key_id)
        assert (refused.status, refused.code) == (400, "spend_limit_exceeded")
        assert "1 open tasks" in refused.json["error"]["message"]
        assert (await call(serving, "A", key_id)).status == 200
        assert serving.task("B") == {}
        assert serving.events("store_failed") == []
