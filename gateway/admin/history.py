"""`GET /admin/v1/breaches` and `GET /admin/v1/audit`: what the ledger keeps of the past."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from aiohttp import web
from pydantic import Field

from gateway.admin.answers import ApiError, json_answer
from gateway.admin.bodies import Body, Moment
from gateway.admin.parts import PARTS
from gateway.admin.query import Query
from gateway.admin.views import dimension_name, iso
from gateway.core.budget import Dimension
from gateway.core.errors import LedgerError

EFFECTS = ("flag", "refuse", "trip")
BREACH_FILTERS = ("task", "effect", "phase")
AUDIT_FILTERS = ("subject", "actor", "action")
_PAGE = ("limit", "cursor")


class CrossedLineBody(Body):
    """A line that was crossed, at the first call that met it with this effect.

    `scope` and `name` tell whose line: the task's, an ancestor's, a phase's. Amounts of cost_usd
    are nano-dollars. `episode` is that of a trip, 0 for others.
    """

    task: str
    scope: str
    name: str
    dimension: str
    effect: Literal["flag", "refuse", "trip"]
    code: str
    used: int
    allowed: int
    line: int
    episode: int
    phase: str | None
    call: str
    verdict: Literal["false_positive", "justified"] | None
    at: Moment
    at_ms: int


class BreachPageBody(Body):
    """Crossed lines, the latest first."""

    breaches: list[CrossedLineBody]
    next_cursor: str | None


class AuditEntryBody(Body):
    """Who changed what, when and why. `subject` is a task, or `key:` or `files:` and a name."""

    at: Moment
    at_ms: int
    actor: str
    action: str
    subject: str
    reason: str
    details: dict[str, Any] = Field(description="Depends on the action; `token` is the admin's.")


class AuditPageBody(Body):
    """Audit entries, the latest first."""

    entries: list[AuditEntryBody]
    next_cursor: str | None


async def get_breaches(request: web.Request) -> web.Response:
    """Return lines that were crossed."""
    query = Query(request, (*BREACH_FILTERS, *_PAGE))
    query.one_of("effect", EFFECTS)
    rows, cursor = await _page(request, query, "breaches", BREACH_FILTERS)
    return json_answer(BreachPageBody(breaches=list(map(breach_body, rows)), next_cursor=cursor))


async def get_audit(request: web.Request) -> web.Response:
    """Return who changed what."""
    query = Query(request, (*AUDIT_FILTERS, *_PAGE))
    rows, cursor = await _page(request, query, "audit", AUDIT_FILTERS)
    return json_answer(AuditPageBody(entries=list(map(audit_body, rows)), next_cursor=cursor))


def breach_body(row: Mapping[str, Any]) -> CrossedLineBody:
    """Return a row of the table `breaches`."""
    same = ("task", "scope", "name", "effect", "code", "used", "allowed", "line", "episode")
    return CrossedLineBody(
        **{name: row[name] for name in (*same, "phase", "at_ms")},
        dimension=dimension_name(Dimension(row["dimension"])),
        call=row["call_id"],
        verdict=row.get("verdict"),
        at=iso(row["at_ms"]),
    )


def audit_body(row: Mapping[str, Any]) -> AuditEntryBody:
    """Return a row of the table `audit`."""
    same = ("at_ms", "actor", "action", "subject", "reason")
    return AuditEntryBody(
        **{name: row[name] for name in same},
        at=iso(row["at_ms"]),
        details=msgspec.json.decode(row["details"]),
    )


async def _page(
    request: web.Request, query: Query, table: str, filters: Sequence[str]
) -> tuple[Sequence[Mapping[str, Any]], str | None]:
    """Return a page's rows and where the next one begins. Raises ApiError."""
    parts, most, below = request.app[PARTS], query.limit(), query.cursor()
    wanted = {name: query.text(name) for name in filters if query.text(name)}
    if "phase" in wanted:
        wanted["phase"] = wanted["phase"].upper()
    if "effect" in wanted:
        wanted["effect"] = wanted["effect"].lower()
    try:
        rows = await asyncio.to_thread(
            parts.read_page, table, parts.names.tenant, wanted, below, most
        )
    except LedgerError as error:
        message = f"The ledger cannot be read: {error}"
        raise ApiError(503, "ledger_unavailable", message, headers={"Retry-After": "2"}) from None
    return rows, str(rows[-1]["number"]) if len(rows) >= most else None
