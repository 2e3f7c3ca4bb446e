"""A running admin plane, as tests talk to it."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp.test_utils import TestClient

from gateway.admin.api import AdminParts, Health
from gateway.core.configuration import Rules
from gateway.core.policy import PolicySet
from gateway.core.prices import PriceTable
from gateway.store.address import StoreAddress
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys
from gateway.telemetry.counters import Counters
from tests.store.agent import budgets

TOKEN = "s3cret-admin-token"
WHO = {"approver": "ada", "reason": "nearly done"}
RULES = Rules(budgets(), PolicySet(), PriceTable({}))
HEALTHY = Health(
    workers_ready=2,
    workers_wanted=2,
    store_connected=True,
    config_source="file",
    config_hash="c0ffee",
    policy_hash="decade",
    draining=False,
    open_calls=3,
    uptime_s=12.34567,
    version="9.8.7",
)


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
    """The plane, what it is built from, what it counts and what it logged."""

    client: TestClient[Any, Any]
    parts: AdminParts
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


StartPlane = Callable[..., Awaitable[Plane]]


def parts_without_store(token: str) -> AdminParts:
    """What an admin plane can be built from, if nobody asks it for anything."""
    return AdminParts(
        StoreConnection(StoreAddress(path="/nowhere")),
        TenantKeys("nobody"),
        token,
        lambda: HEALTHY,
        Counters(),
        lambda *_, **__: None,
        lambda: RULES,
    )
