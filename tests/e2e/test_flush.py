"""A store that is flushed under a running gateway: who was refused stays refused, who may call may."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from loadtest.fake_provider import FakeProvider, Script
from tests.e2e.conftest import StartGateway
from tests.e2e.running_gateway import Gateway, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

POLICIES = {
    "a": "kind: stop_loss\nname: a\nmode: enforce\n",
    "b": "kind: spend_limit\nname: b\nmode: enforce\nper: key\nwindow: lifetime\n"
    "hard: {tokens: 1000}\n",
}
SETTINGS = {"TOLLGATE_LEDGER__WRITER": "true", "TOLLGATE_KEYS__REQUIRED": "true"}
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}


async def new_key(gateway: Gateway, name: str) -> dict[str, Any]:
    made = await gateway.admin("POST", "/admin/v1/keys", json={"name": name})
    assert made.status_code == 201, made.text
    key: dict[str, Any] = made.json()
    return key


async def register_wrongly(gateway: Gateway, task: str) -> None:
    """Have a task blocked."""
    body = {"id": task, "budget_overrides": {"PLAN": {"tokens": "many"}}}
    answer = await gateway.admin("POST", "/admin/v1/tasks", json=body)
    assert answer.status_code == 422, answer.text


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


class Caller:
    """A client of the gateway, with any key."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def ask(self, key: dict[str, Any], **headers: str) -> httpx.Response:
        headers["authorization"] = f"Bearer {key['key']}"
        return await self._client.post("/v1/chat/completions", json=CHAT, headers=headers)

    async def until_served(self, key: dict[str, Any]) -> None:
        """Ask until there is an answer; to ask again is all that may be said meanwhile."""
        while (answer := await self.ask(key)).status_code != 200:
            assert code(answer) == (503, "budget_store_unavailable")
            await asyncio.sleep(0.05)


@pytest_asyncio.fixture(loop_scope="session")
async def gateway(start_gateway: StartGateway, tmp_path: Path) -> Gateway:
    """A gateway that writes its ledger, asks for keys and lets each have 1,000 tokens."""
    folder = tmp_path / "limits"
    folder.mkdir()
    for name, text in POLICIES.items():
        (folder / f"{name}.yaml").write_text(text)
    started = await start_gateway(TOLLGATE_POLICIES__DIR=str(folder), **SETTINGS)
    await until(lambda: started.log_events("ledger_writer_ready"), "the writer")
    return started


async def test_EC15_after_a_flushall(gateway: Gateway, provider: FakeProvider) -> None:
    """A spent key is refused, a revoked one is nobody's, a good one is never told 401; a session
    goes on with its task; blocked tasks stay so, with a call before it or without (EC17).
    """
    made = [await new_key(gateway, name) for name in ("good", "unseen", "spent", "revoked")]
    good, unseen, spent, revoked = made
    await gateway.admin("PUT", "/admin/v1/sessions/s-1", json={"task": "S"})
    async with gateway.client() as client:
        caller = Caller(client)
        provider.script(lambda _: Script(prompt_tokens=2_000, completion_tokens=5))
        assert (await caller.ask(spent)).status_code == 200
        provider.script(None)
        for key in (good, revoked):
            assert (await caller.ask(key)).status_code == 200
        await gateway.admin("POST", f"/admin/v1/keys/{revoked['id']}/revoke", json={})
        await until(lambda: gateway.store.zcard(gateway.keys.leases) == 0, "all settled")
        assert code(await caller.ask(revoked)) == (401, "invalid_key")
        assert code(await caller.ask(spent)) == (400, "spend_limit_exceeded")
        assert (await caller.ask(good, **{"x-task-id": "at-work"})).status_code == 200
        for task in ("at-work", "new"):
            await register_wrongly(gateway, task)
        await until(lambda: gateway.store.zcard(gateway.keys.leases) == 0, "that one, too")
        await until(lambda: gateway.store.xlen(gateway.keys.ledger) == 0, "all written")

        gateway.store.flushall()
        await caller.until_served(unseen)
        await caller.until_served(good)
        await until(lambda: gateway.log_events("ledger_rebuilt"), "the rebuild")
        (rebuilt,) = gateway.log_events("ledger_rebuilt")
        assert (rebuilt["keys"], rebuilt["sessions"]) == (4, 1)
        assert code(await caller.ask(spent)) == (400, "spend_limit_exceeded")
        assert code(await caller.ask(revoked)) == (401, "invalid_key")
        for task in ("at-work", "new"):
            assert code(await caller.ask(good, **{"x-task-id": task})) == (400, "task_blocked")
        assert (await caller.ask(good, **{"session-id": "s-1"})).status_code == 200
        await until(lambda: gateway.number("S", "calls.S") == 1, "the session's call")
    audit = (await gateway.admin("GET", "/admin/v1/audit")).json()["entries"]
    assert [entry["action"] for entry in audit] == [
        *("task.block", "task.block", "key.revoke", "session.bind", *["key.create"] * 4)
    ]
