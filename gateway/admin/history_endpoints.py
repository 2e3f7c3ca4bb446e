"""Routes of what has happened and what happens, and examples for their description."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from gateway.admin import history, live
from gateway.admin.endpoint import WITHOUT_STORE, Endpoint
from gateway.admin.query import CURSOR_PARAMETER, LIMIT_PARAMETER
from gateway.core.phases import WorkPhase

_FROM_LEDGER = {400: ("invalid_query",), **WITHOUT_STORE, 503: ("ledger_unavailable",)}
_WORDS = {"effect": history.EFFECTS, "phase": tuple(phase.value for phase in WorkPhase)}


def _parameters(filters: Sequence[str]) -> tuple[Mapping[str, object], ...]:
    def schema(name: str) -> dict[str, object]:
        words = _WORDS.get(name)
        return {"type": "string", "enum": list(words)} if words else {"type": "string"}

    return (
        LIMIT_PARAMETER,
        CURSOR_PARAMETER,
        *(
            {
                "name": name,
                "in": "query",
                "description": f"Only those with this {name}.",
                "schema": schema(name),
            }
            for name in filters
        ),
    )


HISTORY_ENDPOINTS = (
    Endpoint(
        "GET",
        "/admin/v1/breaches",
        history.get_breaches,
        "listBreaches",
        "Lines that were crossed, the latest first",
        history.BreachPageBody,
        parameters=_parameters(history.BREACH_FILTERS),
        errors=_FROM_LEDGER,
        uses_store=False,
    ),
    Endpoint(
        "GET",
        "/admin/v1/audit",
        history.get_audit,
        "listAudit",
        "Who changed what and why, the latest first",
        history.AuditPageBody,
        parameters=_parameters(history.AUDIT_FILTERS),
        errors=_FROM_LEDGER,
        uses_store=False,
    ),
    Endpoint(
        "GET",
        "/admin/v1/events",
        live.get_events,
        "watchEvents",
        "What happens, as it happens: server-sent events",
        media_type="text/event-stream",
        errors={**WITHOUT_STORE, 503: ("too_many_watchers",)},
        uses_store=False,
    ),
)

_MOMENT = {"at": "2026-11-02T09:41:12.250Z", "at_ms": 1_793_612_472_250}
HISTORY_EXAMPLES: Mapping[tuple[type[BaseModel], int], dict[str, Any]] = {
    (history.BreachPageBody, 200): {
        "breaches": [
            {
                "task": "IMP-COST-01",
                "scope": "task",
                "name": "IMP-COST-01",
                "dimension": "tokens",
                "effect": "trip",
                "code": "task_budget_exceeded",
                "used": 31_600,
                "allowed": 23_400,
                "line": 28_080,
                "episode": 1,
                "phase": "VERIFY",
                "call": "c5f0c0e2a8f534d09-1",
                "verdict": None,
                **_MOMENT,
            }
        ],
        "next_cursor": None,
    },
    (history.AuditPageBody, 200): {
        "entries": [
            {
                **_MOMENT,
                "actor": "ada",
                "action": "task.kill",
                "subject": "IMP-COST-01",
                "reason": "it edits the wrong repository",
                "details": {"state": "killed", "token": "ada"},
            }
        ],
        "next_cursor": "1793612472250000",
    },
}
