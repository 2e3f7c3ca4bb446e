"""A running admin plane, as tests talk to it."""

import json
from dataclasses import dataclass
from typing import Any

from aiohttp.test_utils import TestClient

from gateway.telemetry.counters import Counters

TOKEN = "s3cret-admin-token"
WHO = {"approver": "ada", "reason": "nearly done"}


@dataclass
class Answer:
    """An answer, read to its end."""

    status: int
    headers: Any
    text: str

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.text)

    @property
    def error(self) -> Any:
        """The error of an error answer, which has nothing else."""
        assert list(self.json) == ["error"]
        return self.json["error"]


@dataclass
class Plane:
    """The plane, what it counts and what it logged."""

    client: TestClient[Any, Any]
    counters: Counters
    events: list[dict[str, Any]]

    async def ask(
        self, method: str, path: str, *, token: str | None = TOKEN, **options: Any
    ) -> Answer:
        """Send a request, by default with the token."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        headers.update(options.pop("headers", {}))
        async with self.client.request(method, path, headers=headers, **options) as answer:
            return Answer(answer.status, answer.headers, await answer.text())

    async def get(self, path: str, **options: Any) -> Answer:
        """Ask for something."""
        return await self.ask("GET", path, **options)

    async def task(self, task: str = "T") -> Any:
        """The view of a task."""
        answer = await self.get(f"/admin/v1/tasks/{task}")
        assert answer.status == 200, answer.text
        return answer.json

    async def override(self, body: Any, task: str = "T") -> Answer:
        """Ask for an override; text and bytes are sent as they are."""
        data = body if isinstance(body, (str, bytes)) else json.dumps(body)
        return await self.ask("POST", f"/admin/v1/tasks/{task}/overrides", data=data)

    async def grant(self, **amounts: Any) -> Answer:
        """Ask for a grant by Ada."""
        return await self.override({"kind": "grant", **WHO, **amounts})
