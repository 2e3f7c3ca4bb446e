"""The route of a task's report, and examples for its description."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from gateway.admin import reports
from gateway.admin.endpoint import WITHOUT_STORE, Endpoint
from gateway.core.identity import ID_PATTERN

REPORT_ENDPOINTS = (
    Endpoint(
        "GET",
        "/admin/v1/tasks/{id}/report",
        reports.get_report,
        "getTaskReport",
        "A task's budget report, also while it runs; each access is put on record",
        reports.ReportBody,
        also_as=reports.MARKDOWN,
        parameters=(
            {
                "name": "id",
                "in": "path",
                "required": True,
                "description": "The task's id.",
                "schema": {"type": "string", "pattern": f"^{ID_PATTERN.pattern}$"},
                "example": "IMP-COST-01",
            },
            {
                "name": "format",
                "in": "query",
                "description": "Without it, JSON if only that is accepted, else Markdown.",
                "schema": {"type": "string", "enum": list(reports.FORMATS)},
            },
            {
                "name": "redacted",
                "in": "query",
                "description": "Whether people, their texts and other tasks' names are left out.",
                "schema": {"type": "string", "enum": list(reports.SWITCH), "default": "false"},
            },
        ),
        errors={
            400: ("invalid_task_id", "invalid_query"),
            404: ("unknown_task", "reports_off"),
            **WITHOUT_STORE,
            503: ("ledger_unavailable",),
        },
        uses_store=False,
    ),
)


def _amount(used: int, limit: int | None, percent: int | None, status: str | None) -> Any:
    return {
        "used": used,
        "limit": limit,
        "granted": 0,
        "allowed": limit,
        "percent": percent,
        "status": status,
    }


_COST = _amount(94_800_000, None, None, None)
REPORT_EXAMPLES: Mapping[tuple[type[BaseModel], int], dict[str, Any]] = {
    (reports.ReportBody, 200): {
        "task_id": "IMP-COST-01",
        "generated_at": "2026-11-02T09:45:00.000Z",
        "mid_task": True,
        "state": "open",
        "current_phase": "VERIFY",
        "executive_summary": [
            "EXCEEDED: 31,600 / 23,400 (135%) tokens, 240s / 573s (42%).",
            "Most went into VERIFY (31,600 tokens). Lines crossed: 1; blocked attempts: 1; "
            "anomalies: 1.",
            "Recommendation: VERIFY used 1580% of its tokens: shorten what it carries along, or "
            "raise its base budget.",
        ],
        "budget_status": "exceeded",
        "stop_loss": {
            "state": "tripped",
            "code": "task_budget_exceeded",
            "dimension": "tokens",
            "since": "2026-11-02T09:41:12.250Z",
            "episode": 1,
            "remediation": "FIX-BUDGET-BREACH-IMP-COST-01",
        },
        "totals": {
            "tokens": _amount(31_600, 23_400, 135, "exceeded"),
            "latency_ms": _amount(240_000, 573_000, 42, "within"),
            "nano_usd": _COST,
            "calls": _amount(2, None, None, None),
        },
        "phases": [
            {
                "phase": "VERIFY",
                "status": "exceeded",
                "executions": 1,
                "tokens": _amount(31_600, 2_000, 1_580, "exceeded"),
                "latency_ms": _amount(240_000, 48_000, 500, "exceeded"),
                "nano_usd": _COST,
                "factors": {
                    "base_tokens": 2_500,
                    "base_latency_ms": 60_000,
                    "complexity": "1.0",
                    "importance": "1.0",
                    "phase_weight": "0.8",
                    "budget_multiplier": "1",
                    "absolute": False,
                },
                "estimated_calls": 0,
            }
        ],
        "complexity": "Medium",
        "importance": "medium",
        "config_hash": "0f3a5c7e9b1d2468",
        "thresholds": {"cumulative_token_threshold": "1.2", "runaway_threshold": "2.0"},
        "data_source": "provider",
        "figures_from": "store",
        "estimated_share": 0.0,
        "unpriced_calls": 0,
        "overrides": [
            {
                "kind": "grant",
                "tokens": 10_000,
                "latency_ms": None,
                "nano_usd": None,
                "phase": None,
                "factor": None,
                "created": "2026-11-02T09:44:00.000Z",
                "expires": None,
                "in_force": True,
                "approver": "ada@example.com",
                "reason": "The migration took a second attempt.",
            }
        ],
        "breaches": [
            {
                "scope": "task",
                "name": "IMP-COST-01",
                "dimension": "tokens",
                "effect": "trip",
                "code": "task_budget_exceeded",
                "used": 31_600,
                "allowed": 23_400,
                "line": 28_080,
                "percent": 135,
                "episode": 1,
                "phase": "VERIFY",
                "call": "c5f0c0e2a8f534d09-1",
                "at": "2026-11-02T09:41:12.250Z",
            }
        ],
        "blocked": {"attempts": 1, "by_code": {"task_budget_exceeded": 1}},
        "anomalies": [
            {
                "phase": "VERIFY",
                "dimension": "tokens",
                "percent": 1_580,
                "used": 31_600,
                "allowed": 2_000,
            }
        ],
        "similar_tasks": {
            "tasks": 7,
            "median_tokens": 18_200,
            "median_latency_ms": 311_000,
            "percent_of_median": 174,
        },
        "recommendations": [
            "VERIFY used 1580% of its tokens: shorten what it carries along, or raise its base "
            "budget."
        ],
        "doubts": ["95% went into VERIFY, in one go: its base budget may be too small."],
        "unavailable": [],
        "redacted": False,
    },
}
REPORTS_OFF = {
    "value": {
        "error": {
            "code": "reports_off",
            "message": "Reports are switched off. Remedy: set reports.enabled and ...",
        }
    }
}
