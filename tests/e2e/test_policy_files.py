"""Policies of a folder hold in the workers of a gateway: those of calls, loops and grace."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtest.fake_provider import FakeProvider, Script
from tests.e2e.conftest import StartGateway

pytestmark = pytest.mark.asyncio(loop_scope="session")

POLICIES = {
    "a": "kind: stop_loss\nname: a\nmode: enforce\n",
    "b": "kind: untagged_calls\nname: b\neffect: refuse\n",
    "c": "kind: loop\nname: c\ncalls: 2\nmatch: {task: ['loop-*']}\n",
    "d": "kind: grace_call\nname: d\nallowance_tokens: 4000\n",
}


async def test_policies_in_files_hold(
    start_gateway: StartGateway, provider: FakeProvider, task: str, tmp_path: Path
) -> None:
    """In the mode of the stop-loss, which they leave out; an operator's resume frees a loop."""
    folder = tmp_path / "acts"
    folder.mkdir()
    for name, text in POLICIES.items():
        (folder / f"{name}.yaml").write_text(text)
    gateway = await start_gateway(TOLLGATE_POLICIES__DIR=str(folder))
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
    async with gateway.client() as client:

        async def ask(*said: str) -> httpx.Response:
            names = ("x-task-id", "x-task-phase", "x-task-grace")
            headers = dict(zip(names, said, strict=False))
            return await client.post("/v1/chat/completions", json=body, headers=headers)

        def code(answer: httpx.Response) -> Any:
            return answer.json()["error"]["code"]

        assert code(await ask()) == "tags_required"
        looping = f"loop-{task}"
        assert (await ask(looping)).status_code == 200
        assert code(await ask(looping)) == "loop_detected"
        who = {"approver": "ada", "reason": "looked at it"}
        resumed = await gateway.admin("POST", f"/admin/v1/tasks/{looping}/resume", json=who)
        assert resumed.status_code == 200
        assert (await ask(looping)).status_code == 200
        provider.script(lambda _: Script(prompt_tokens=60_000, completion_tokens=5))
        assert (await ask(task, "VERIFY")).status_code == 200
        await gateway.settled(task, calls=1)
        graces = [await ask(task, "VERIFY", "1") for _ in range(3)]
        assert [answer.status_code for answer in graces] == [400, 200, 400]
        assert graces[1].headers["x-tollgate-grace"] == "admitted"
        assert len(provider.journal) == 4
