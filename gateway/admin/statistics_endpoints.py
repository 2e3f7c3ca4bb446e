"""Routes of statistics and verdicts, and examples for their description."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from gateway.admin import statistics, verdicts
from gateway.admin.endpoint import BODY_ERRORS, EVERYWHERE, WITHOUT_STORE, Endpoint
from gateway.core.identity import ID_PATTERN


def _moment(name: str, meaning: str) -> dict[str, object]:
    return {"name": name, "in": "query", "description": meaning, "schema": {"type": "string"}}


STATISTICS_ENDPOINTS = (
    Endpoint(
        "GET",
        "/admin/v1/statistics",
        statistics.get_statistics,
        "getStatistics",
        "How the gateway has done over a period, and which figures are alarming",
        statistics.StatisticsBody,
        parameters=(
            _moment("since", "From this time on (ISO 8601); 14 days before `until`."),
            _moment("until", "Before this time; now."),
            {
                "name": "by",
                "in": "query",
                "description": "What `spreads` are told apart by: phase, or its complexity too.",
                "schema": {"type": "string", "enum": list(statistics.GROUPS), "default": "phase"},
            },
        ),
        errors={400: ("invalid_query",), **WITHOUT_STORE, 503: ("ledger_unavailable",)},
        uses_store=False,
    ),
    Endpoint(
        "POST",
        "/admin/v1/breaches/{call}/false-positive",
        verdicts.post_verdict,
        "judgeBreach",
        "Say whether a block was right",
        verdicts.VerdictBody,
        takes=verdicts.VerdictRequest,
        parameters=(
            {
                "name": "call",
                "in": "path",
                "required": True,
                "description": "The `call` of an entry of the breaches.",
                "schema": {"type": "string", "pattern": f"^{ID_PATTERN.pattern}$"},
                "example": "c5f0c0e2a8f534d09-1",
            },
        ),
        errors={
            **EVERYWHERE,
            **BODY_ERRORS,
            400: ("invalid_json", "invalid_body", "invalid_call_id"),
            404: ("unknown_breach",),
            503: ("budget_store_unavailable", "ledger_unavailable"),
        },
        uses_store=False,
    ),
)

_PERCENTILES = {"p50": 2_900, "p75": 4_100, "p90": 5_600, "p95": 6_200, "p99": 9_800}
STATISTICS_EXAMPLES: Mapping[tuple[type[BaseModel], int], dict[str, Any]] = {
    (statistics.StatisticsBody, 200): {
        "since": "2026-10-19T00:00:00.000Z",
        "until": "2026-11-02T00:00:00.000Z",
        "tasks": {
            "tasks": 120,
            "within_limit": 112,
            "within_limit_percent": 93.33,
            "stopped": 4,
            "stopped_percent": 3.33,
            "would_refuse": 5,
            "importance": {"low": 20, "medium": 78, "high": 18, "critical": 4},
        },
        "calls": {
            "calls": 3_402,
            "would_refuse": 11,
            "refused": {"task_budget_exceeded": 9},
            "tokens": 2_104_330,
            "nano_usd": 6_312_990_000,
            "cost_usd": "6.312990000",
            "sources": {"provider": 3_366, "estimated": 36, "none": 0},
            "source_percents": {"provider": 98.94, "estimated": 1.06, "none": 0.0},
        },
        "blocks": [
            {
                "importance": "medium",
                "blocks": 5,
                "false_positives": 1,
                "justified": 2,
                "false_positive_percent": 20.0,
            }
        ],
        "spreads": [
            {
                "phase": "THINK",
                "complexity": None,
                "executions": 118,
                "tokens": _PERCENTILES,
                "latency_ms": {name: 10 * value for name, value in _PERCENTILES.items()},
            }
        ],
        "trends": [
            {
                "model": "gpt-4o",
                "phase": "THINK",
                "median_before": 1_000,
                "median_now": 1_070,
                "change_percent": 7.0,
            }
        ],
        "savings": {
            "tokens_per_task_before": 20_100.0,
            "tokens_per_task": 17_536.08,
            "tokens_change_percent": -12.76,
            "p95_latency_ms_before": 9_100,
            "p95_latency_ms": 8_700,
            "latency_change_percent": -4.4,
            "saved_nano_usd": 41_250_000_000,
            "return_on_investment": 3.44,
        },
        "triggers": [
            {
                "name": "false_positives_rollback",
                "rule": "RBK-1",
                "value": 20.0,
                "threshold": 5.0,
                "beyond": "above",
                "state": "alert",
            }
        ],
    },
    (verdicts.VerdictBody, 200): {
        "call": "c5f0c0e2a8f534d09-1",
        "verdict": "false_positive",
        "approver": "ada@example.com",
    },
}
STATISTICS_REQUESTS: Mapping[type[BaseModel], Mapping[str, dict[str, Any]]] = {
    verdicts.VerdictRequest: {
        "verdict": {
            "value": {
                "verdict": "false_positive",
                "approver": "ada@example.com",
                "reason": "One long test log was counted three times.",
            }
        }
    }
}
UNKNOWN_BREACH = {
    "value": {
        "error": {
            "code": "unknown_breach",
            "message": "No line was crossed by the call c-1. Remedy: give the `call` of ...",
            "field": "call",
        }
    }
}
