"""`GET /admin/v1/remediation` and `GET /admin/v1/deliveries`: what was told to the outside."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from aiohttp import web
from pydantic import Field

from gateway.admin.answers import ApiError, json_answer
from gateway.admin.bodies import Body, Moment
from gateway.admin.parts import PARTS
from gateway.admin.query import Query, invalid_query
from gateway.admin.views import iso
from gateway.core.errors import LedgerError
from gateway.core.identity import ID_PATTERN

REMEDIATION_STATES = ("pending", "failed", "written", "listed")
DELIVERY_STATES = ("pending", "delivered", "dead")

_PARAMETERS = ("task", "state", "limit")


class RemediationBody(Body):
    """A task that is to mend a breach; `error` is why the latest attempt to write it failed."""

    name: str
    task: str
    episode: int
    created: Moment
    created_ms: int
    state: Literal["pending", "failed", "written", "listed"]
    attempts: int
    error: str | None
    document: dict[str, Any] = Field(description="The task as it stands in the roadmap file.")


class RemediationListBody(Body):
    """Remediation tasks, the latest first."""

    remediations: list[RemediationBody]


class DeliveryBody(Body):
    """A notice for one webhook; `error` is why the latest attempt failed."""

    id: str
    webhook: str
    kind: str
    task: str | None
    created: Moment
    created_ms: int
    state: Literal["pending", "delivered", "dead"]
    attempts: int
    error: str | None


class DeliveryListBody(Body):
    """Notices, the latest first."""

    deliveries: list[DeliveryBody]


async def get_remediations(request: web.Request) -> web.Response:
    """Return remediation tasks, of one task or in one state if that is asked for."""
    rows = await _rows(request, "remediations", REMEDIATION_STATES)
    found = [
        RemediationBody(
            **_shared(row),
            name=row["name"],
            task=row["task"],
            episode=row["episode"],
            document=msgspec.json.decode(row["document"]),
        )
        for row in rows
    ]
    return json_answer(RemediationListBody(remediations=found))


async def get_deliveries(request: web.Request) -> web.Response:
    """Return notices for webhooks, of one task or in one state if that is asked for."""
    rows = await _rows(request, "deliveries", DELIVERY_STATES)
    found = [
        DeliveryBody(
            **_shared(row),
            id=row["id"],
            webhook=row["webhook"],
            kind=row["kind"],
            task=row["task"] or None,
        )
        for row in rows
    ]
    return json_answer(DeliveryListBody(deliveries=found))


def _shared(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what both lists tell of a row."""
    return {
        "created": iso(row["created_ms"]),
        **{name: row[name] for name in ("created_ms", "state", "attempts", "error")},
    }


async def _rows(
    request: web.Request, table: str, states: Sequence[str]
) -> Sequence[Mapping[str, Any]]:
    parts, query = request.app[PARTS], Query(request, _PARAMETERS)
    task, state, limit = query.text("task"), query.one_of("state", states), query.limit()
    if task and not ID_PATTERN.fullmatch(task.removeprefix("-")):
        raise invalid_query("task", "give a task's id")
    try:
        return await asyncio.to_thread(
            parts.read_outbox, table, parts.names.tenant, task, state, limit
        )
    except LedgerError as error:
        message = f"The ledger cannot be read: {error}"
        raise ApiError(503, "ledger_unavailable", message, headers={"Retry-After": "2"}) from None
