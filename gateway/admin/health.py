"""Is it alive, can it serve: `/healthz` and `/readyz`."""

from collections.abc import Iterator
from typing import Literal

from aiohttp import web
from pydantic import BaseModel

from gateway.admin.answers import json_answer
from gateway.admin.parts import PARTS, Health

_UNAVAILABLE = 503


class LivenessBody(BaseModel):
    """The process lives."""

    status: Literal["ok"] = "ok"


class ReadinessBody(BaseModel):
    """Whether the gateway can serve calls, and if not, why."""

    status: Literal["ready", "not_ready"]
    reasons: list[str]
    workers_ready: int
    workers_wanted: int
    store_connected: bool
    config_source: Literal["file", "defaults"]
    config_hash: str
    policy_hash: str
    draining: bool
    open_calls: int
    uptime_s: float
    version: str


async def get_liveness(_: web.Request) -> web.Response:
    """Say that the process lives; it says nothing else, so that nobody restarts it for others."""
    return json_answer(LivenessBody())


async def get_readiness(request: web.Request) -> web.Response:
    """Say whether calls should be sent here."""
    health = request.app[PARTS].health()
    reasons = list(_reasons(health))
    body = ReadinessBody.model_validate(
        {
            "status": "not_ready" if reasons else "ready",
            "reasons": reasons,
            **vars(health),
            "uptime_s": round(health.uptime_s, 3),
        }
    )
    return json_answer(body, _UNAVAILABLE if reasons else 200)


def _reasons(health: Health) -> Iterator[str]:
    """Yield what keeps the gateway from serving. One worker of several is enough to serve."""
    if health.draining:
        yield "the gateway is draining"
    if health.workers_ready == 0:
        yield f"no worker is ready (0 of {health.workers_wanted})"
    if not health.store_connected:
        yield "the budget store is not connected"
