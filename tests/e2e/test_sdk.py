"""The official SDK through the gateway: the same objects, the same bytes, exact totals."""

import pytest

from loadtest.fake_provider import FakeProvider
from tests.e2e.running_gateway import Gateway

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_first(gateway: Gateway, provider: FakeProvider, task: str) -> None:
    async with gateway.client() as client:
        r = await client.post("/v1/chat/completions", json={"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}, headers={"x-task-id": task})
    print(r, r.headers, r.text)
    print(await gateway.settled(task, 1))
    print(gateway.log_text, gateway.banner)
    print(await gateway.ready())
    assert 0
