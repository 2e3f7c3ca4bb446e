"""What every metered call goes through, whatever carries it; its way is in `test_lifecycle.py`."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from gateway.store.connection import StoreConnection
from loadtest.fake_provider import FakeProvider
from tests.e2e.in_process import Bench, bench, rules
from tests.ledger.desk import Desk


@pytest_asyncio.fixture
async def serving(valkey: str, tenant: str) -> AsyncIterator[Bench]:
    """A lifecycle before a provider of 200 tokens a call."""
    async with (
        FakeProvider() as provider,
        bench(valkey, provider.base_url, tenant, rules()) as running,
    ):
        yield running


async def test_a_response_in_the_background_is_one_row_of_the_ledger(
    serving: Bench, connection: StoreConnection, tenant: str, tmp_path: Path
) -> None:
    """The counts of the fetch, all else of the call that asked for it: its decision, S and C."""
    body = json.dumps({"model": "gpt-5", "input": "hi", "background": True}).encode()
    asks = (
        b"POST /v1/responses HTTP/1.1\r\nHost: t\r\nX-Task-Id: T\r\nX-Task-Phase: PLAN\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    desk = Desk(tenant, connection, f"sqlite:///{tmp_path / 'ledger.db'}")
    async with serving.client() as client:
        queued = json.loads((await client.ask(asks)).body)
        await serving.recorded(1)
        await desk.written()
        (provisional,) = desk.rows()
        assert (provisional["usage_source"], provisional["status"]) == ("estimated", 200)
        for call in (2, 3):
            fetch = f"GET /v1/responses/{queued['id']} HTTP/1.1\r\nHost: t\r\n\r\n"
            done = json.loads((await client.ask(fetch.encode())).body)
            await serving.recorded(call)
    await desk.written()
    (row,) = desk.rows()
    usage = done["usage"]
    assert (row["input_tokens"], row["output_tokens"], row["usage_source"]) == (
        usage["input_tokens"],
        usage["output_tokens"],
        "provider",
    )
    assert row["tokens"] == usage["total_tokens"] != provisional["tokens"]
    same = ("decision", "line_tokens", "phase_line_tokens", "latency_ms", "held_tokens", "path")
    assert [row[name] for name in same] == [provisional[name] for name in same]
    assert row["line_tokens"] is not None
    assert (await desk.verify()).differences == ()
