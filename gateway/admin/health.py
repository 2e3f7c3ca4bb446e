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
    """Whether the gateway can serve calls; if not, or not as it should, why."""

    status: Literal["ready", "degraded", "not_ready"]
    reasons: list[str]
    workers_ready: int
    workers_wanted: int
    store_connected: bool
    store_up: bool
    workers_without_store: int
    journal_entries: int
    gateways_with_other_rules: list[str]
    enforcement_switched_off: bool
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
    """Say whether calls should be sent here.

    Store trouble alone is no reason to send them elsewhere as long as they are answered here: that
    is what `store_failure` decides. Then the gateway is `degraded`, which is 200 all the same.
    """
    health = request.app[PARTS].health()
    stops, troubles = list(_stops(health)), list(_store_troubles(health))
    refuses = bool(troubles) and health.refuses_without_store
    troubles += [*_translator_troubles(health), *_rule_troubles(health)]
    status = "not_ready" if stops or refuses else "degraded" if troubles else "ready"
    body = ReadinessBody.model_validate(
        {
            "status": status,
            "reasons": stops + troubles,
            **vars(health),
            "gateways_with_other_rules": list(health.gateways_with_other_rules),
            "store_up": health.store_up,
            "uptime_s": round(health.uptime_s, 3),
        }
    )
    return json_answer(body, _UNAVAILABLE if status == "not_ready" else 200)


def _stops(health: Health) -> Iterator[str]:
    """Yield what keeps the gateway from serving. One worker of several is enough to serve."""
    if health.draining:
        yield "the gateway is draining"
    if health.workers_ready == 0:
        yield f"no worker is ready (0 of {health.workers_wanted})"


def _translator_troubles(health: Health) -> Iterator[str]:
    if health.lacks_translator:
        yield "translator: not running; calls to translated upstreams are answered 502"


def _rule_troubles(health: Health) -> Iterator[str]:
    if others := health.gateways_with_other_rules:
        yield f"rules: {', '.join(others)} of the same store has other policies or budgets"


def _store_troubles(health: Health) -> Iterator[str]:
    if not health.store_connected:
        yield "store: not connected"
    if health.workers_without_store:
        yield (
            f"store: no answers to {health.workers_without_store} of {health.workers_ready} workers"
        )
