"""Examples for the API's description; the tests hold them to the models."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from gateway.admin import bodies, corrections, health, outbox, sessions
from gateway.admin.act_requests import ActRequest, GateRequest, PhaseRequest
from gateway.admin.history_endpoints import HISTORY_EXAMPLES
from gateway.admin.key_endpoints import KEY_EXAMPLES, KEY_REQUESTS
from gateway.admin.registration_requests import RegisterRequest
from gateway.admin.report_endpoints import REPORT_EXAMPLES, REPORTS_OFF
from gateway.admin.rule_endpoints import RULE_EXAMPLES, RULE_REQUESTS
from gateway.admin.statistics_endpoints import (
    STATISTICS_EXAMPLES,
    STATISTICS_REQUESTS,
    UNKNOWN_BREACH,
)
from gateway.store.task_view import Standing

Json = dict[str, Any]

_WHO = {"approver": "ada@example.com", "reason": "The migration took a second attempt."}
OVERRIDE_EXAMPLES: Mapping[str, Json] = {
    "grant": {"value": {"kind": "grant", "tokens": 10_000, **_WHO}},
    "grantOfMoneyForADay": {
        "value": {"kind": "grant", "cost_usd": "2.50", **_WHO, "expires_in_s": 86_400}
    },
    "phaseLimit": {
        "value": {"kind": "phase_limit", "phase": "THINK", "tokens": 10_000, **_WHO},
    },
    "multiplier": {"value": {"kind": "multiplier", "factor": 1.5, **_WHO}},
    "resume": {"value": {"kind": "resume", **_WHO}},
}


REQUEST_EXAMPLES: Mapping[type[BaseModel], Mapping[str, Json]] = {
    **KEY_REQUESTS,
    **RULE_REQUESTS,
    **STATISTICS_REQUESTS,
    ActRequest: {"act": {"value": _WHO}},
    corrections.CorrectRequest: {
        "charge": {
            "value": {
                "tokens": 15_800,
                "cost_usd": "0.0474",
                "approver": "ada@example.com",
                "reason": "Charged its hold when its gateway died; the provider's bill says this.",
            }
        }
    },
    GateRequest: {"gate": {"value": {"phase": "VERIFY", "to": "REVIEW"}}},
    PhaseRequest: {"phase": {"value": {"by": "orchestrator"}}},
    sessions.BindRequest: {
        "session": {"value": {"task": "IMP-COST-01", "phase": "IMPLEMENT", "by": "orchestrator"}}
    },
    RegisterRequest: {
        "task": {
            "value": {
                "id": "IMP-COST-01",
                "complexity": "Large",
                "importance": "high",
                "budget_overrides": {"THINK": {"tokens": 20_000}},
                "registered_by": "orchestrator",
            }
        },
        "taskBySize": {"value": {"id": "IMP-COST-02", "files": 5, "changed_lines": 300}},
    },
}


_BREACH = {
    "scope": "task",
    "name": "T",
    "dimension": "tokens",
    "used": 31_600,
    "allowed": 23_400,
    "line": 28_080,
}


def _error(code: str, message: str, **details: object) -> Json:
    return {"value": {"error": {"code": code, "message": message, **details}}}


ERROR_EXAMPLES: Mapping[str, Json] = {
    "reports_off": REPORTS_OFF,
    "unknown_breach": UNKNOWN_BREACH,
    "invalid_token": _error("invalid_token", "The admin token is missing or wrong. Remedy: ..."),
    "forbidden": _error(
        "forbidden",
        "The token ada has the role viewer; this needs operator. Remedy: use a token ...",
        role="viewer",
        needs="operator",
    ),
    "invalid_query": _error(
        "invalid_query",
        "The query parameter 'limit' is not valid. Remedy: give a number from 1 to 200.",
        field="limit",
    ),
    "invalid_task_id": _error(
        "invalid_task_id", "'-T' cannot be a task's id: ... Remedy: correct the path.", field="id"
    ),
    "invalid_session_id": _error(
        "invalid_session_id",
        "'-S' cannot be a session's id: ... Remedy: correct the path.",
        field="session",
    ),
    "unknown_price": _error(
        "unknown_price", "No price is known for 'm'. Remedy: state it ...", field="model"
    ),
    "invalid_rules": _error(
        "invalid_rules", "Nothing was changed: policies/stop-loss.yaml:3: ... Remedy: mend ..."
    ),
    "too_many_watchers": _error(
        "too_many_watchers", "16 clients watch already. Remedy: end one, or try again later."
    ),
    "unknown_key": _error(
        "unknown_key", "There is no key 'k'. Remedy: GET /admin/v1/keys lists ...", field="key"
    ),
    "unknown_session": _error(
        "unknown_session",
        "The session S is bound to nothing. Remedy: PUT a binding here.",
        field="session",
    ),
    "invalid_call_id": _error(
        "invalid_call_id", "'-C' cannot be a call's id. Remedy: take it ...", field="call"
    ),
    "unknown_call": _error("unknown_call", "there is no call C. Remedy: ...", field="call"),
    "call_open": _error(
        "call_open",
        "call C is still open. Remedy: wait for its end; it is settled by itself.",
        field="call",
    ),
    "ledger_behind": _error(
        "ledger_behind",
        "the ledger has not written all of call C yet; nothing was changed. Remedy: repeat this "
        "shortly.",
    ),
    "ledger_unavailable": _error(
        "ledger_unavailable", "The ledger cannot be read: the database is locked"
    ),
    "invalid_json": _error(
        "invalid_json", "The body is not JSON: ... Remedy: send one JSON object."
    ),
    "invalid_body": _error("invalid_body", "The request's body did not come whole."),
    "unsupported_encoding": _error(
        "unsupported_encoding", "Content-Encoding: send the body unencoded."
    ),
    "unknown_task": _error(
        "unknown_task", "there is no task T. Remedy: GET /admin/v1/tasks lists those there are."
    ),
    "request_timeout": _error("request_timeout", "The request's body did not come in time."),
    "body_too_large": _error("body_too_large", "Request Entity Too Large"),
    "invalid_override": _error(
        "invalid_override",
        "tokens: must be a valid integer, not '5000'. Remedy: write a whole number, without "
        "quotes.",
        field="tokens",
    ),
    "BudgetExceeded": _error(
        "BudgetExceeded",
        "Task T exceeded token budget: 31,600 / 23,400 (135%). Phase: VERIFY. ...",
        reason="task_budget_exceeded",
        task="T",
        episode=1,
        remediation="FIX-BUDGET-BREACH-T",
        breaches=[_BREACH],
    ),
    "invalid_phase": _error(
        "invalid_phase", "'DANCE' is no phase. Remedy: choose one of ...", field="phase"
    ),
    "invalid_request": _error(
        "invalid_request",
        "approver: is empty. Remedy: name who approved this.",
        field="approver",
    ),
    "invalid_task": _error(
        "invalid_task",
        "task T, budget_overrides.THINK.tokens: must be a valid integer, not '5000'. Remedy: write "
        "a whole number, without quotes.",
        field="budget_overrides.THINK.tokens",
        task="T",
    ),
    "task_exists": _error(
        "task_exists",
        "Task T exists with other content, which is fixed for its life. Remedy: ...",
        field="id",
    ),
    "wrong_state": _error("wrong_state", "task T is killed. Remedy: resume it first.", field="id"),
    "not_enough_room": _error(
        "not_enough_room",
        "The grant leaves task T 3,420 tokens above its line; nothing was changed. Remedy: grant "
        "at least 3,520 tokens.",
        field="tokens",
        dimension="tokens",
        missing=3_420,
    ),
    "override_out_of_bounds": _error(
        "override_out_of_bounds",
        "factor: 3 is beyond the bound of policy override-bounds: at most 2. Nothing was changed. "
        "Remedy: ask for less, or have it done with a token that the policy exempts.",
        field="factor",
        policy="override-bounds",
    ),
    "internal_error": _error(
        "internal_error", "The request failed; the gateway's log has the cause."
    ),
    "budget_store_unavailable": _error(
        "budget_store_unavailable",
        "The budget store did not do it: there is no connection to the store. A change may have "
        "been made all the same: look at the task before you repeat it.",
    ),
}

_READY = {
    "status": "ready",
    "reasons": [],
    "workers_ready": 2,
    "workers_wanted": 2,
    "store_connected": True,
    "store_up": True,
    "workers_without_store": 0,
    "journal_entries": 0,
    "gateways_with_other_rules": [],
    "enforcement_switched_off": False,
    "config_source": "file",
    "config_hash": "0f3a5c7e9b1d2468",
    "policy_hash": "8642d1b9e7c5a3f0",
    "draining": False,
    "open_calls": 3,
    "uptime_s": 12.5,
    "version": "0.1.0",
}
_NOT_READY = {
    **_READY,
    "status": "not_ready",
    "reasons": ["the gateway is draining", "store: no answers to 1 of 2 workers"],
    "store_up": False,
    "workers_without_store": 1,
    "journal_entries": 12,
    "gateways_with_other_rules": [],
    "enforcement_switched_off": False,
    "draining": True,
}


def _total(limit: int | None, used: int, *lines: int, granted: int = 0) -> Json:
    """Return one dimension; `lines` are the cumulative and the runaway line."""
    line, runaway = lines or (None, None)
    standing = Standing(limit, granted, line, runaway, used, 0)
    return {
        "limit": limit,
        "granted": granted,
        "line": line,
        "runaway_line": runaway,
        "used": used,
        "reserved": 0,
        "remaining": standing.remaining,
        "percent": standing.percent,
        "status": standing.status.value if standing.status else None,
        "pressure": standing.pressure,
    }


def _cost(used_nano_usd: int) -> Json:
    total = _total(None, used_nano_usd)
    judged = ("percent", "status", "pressure")
    nano_usd = {name: value for name, value in total.items() if name not in judged}
    return {**total, "granted": "0", "used": "0.0474", "reserved": "0", "nano_usd": nano_usd}


_TOTALS = {
    "tokens": _total(23_400, 31_600, 38_080, 56_800, granted=10_000),
    "latency_ms": _total(573_000, 512_000, 687_600, 1_146_000),
    "cost_usd": _cost(47_400_000),
    "calls": _total(None, 2),
}
_SUMMARY = {
    "id": "IMP-COST-01",
    "complexity": "Medium",
    "importance": "medium",
    "parents": [],
    "created": "2026-11-02T09:30:00.000Z",
    "created_ms": 1_793_611_800_000,
    "last_call": "2026-11-02T09:41:12.250Z",
    "current_phase": "VERIFY",
    "open_calls": 0,
    "state": "open",
    "state_since": None,
    "status": "within",
    "stop_loss": {
        "state": "ok",
        "code": None,
        "dimension": None,
        "since": None,
        "since_ms": None,
        "episode": 1,
        "remediation": "FIX-BUDGET-BREACH-IMP-COST-01",
    },
    "totals": _TOTALS,
}
_OVERRIDE = {
    "kind": "grant",
    "amounts": {"tokens": 10_000, "latency_ms": None, "cost_usd": None, "nano_usd": None},
    "phase": None,
    "factor": None,
    **_WHO,
    "created": "2026-11-02T09:45:00.000Z",
    "created_ms": 1_793_612_700_000,
    "expires": None,
    "expires_ms": None,
    "in_force": True,
}
_PHASE = {
    "phase": "VERIFY",
    "not_started": False,
    "status": "exceeded",
    "tokens": _total(2_000, 31_600, 3_000, 3_000),
    "latency_ms": _total(48_000, 41_000, 72_000, 72_000),
    "cost_usd": _cost(47_400_000),
    "calls": _total(None, 2),
    "factors": {
        "base": {"tokens": 2_500, "latency_ms": 60_000, "cost_usd": None},
        "complexity": "1",
        "importance": "1",
        "phase_weight": "0.8",
        "budget_multiplier": "1",
        "override_multiplier": None,
        "absolute": False,
    },
    "executions": [
        {
            "number": 1,
            "started": "2026-11-02T09:30:00.000Z",
            "ended": "2026-11-02T09:41:12.250Z",
            "tokens": 31_600,
            "latency_ms": 41_000,
            "wall_ms": None,
        }
    ],
}
_TASK = {
    **_SUMMARY,
    "as_of": "2026-11-02T09:45:00.012Z",
    "generation": 1,
    "config_hash": "0f3a5c7e9b1d2468",
    "counters": {
        "refused": 1,
        "parallel_phases": 0,
        "would_refuse": {"calls": 0, "tokens": 0},
        "expired": {"calls": 0, "tokens": 0},
        "estimated": {"calls": 0, "tokens": 0, "share": 0.0},
    },
    "raw_tokens": {
        "input": 30_000,
        "cached_read": 0,
        "cache_write": 0,
        "output": 1_600,
        "reasoning": 0,
    },
    "phases": [_PHASE],
    "overrides": [_OVERRIDE],
}
_REMEDIATION = {
    "name": "FIX-BUDGET-BREACH-IMP-COST-01",
    "task": "IMP-COST-01",
    "episode": 1,
    "created": "2026-11-02T09:40:00.000Z",
    "created_ms": 1_793_612_400_000,
    "state": "failed",
    "attempts": 3,
    "error": "config/roadmap.yaml: Permission denied",
    "document": {
        "id": "FIX-BUDGET-BREACH-IMP-COST-01",
        "title": "Task IMP-COST-01 exceeded token budget: 31,600 / 23,400 (135%)",
        "type": "remediation",
        "status": "open",
        "budget_breach": {"task": "IMP-COST-01", "episode": 1, "used": 31_600, "limit": 23_400},
    },
}
_DELIVERY = {
    "id": "6f1f0e0c5d3b4a29a7c1c9b1f4f2a7de",
    "webhook": "ops-channel",
    "kind": "trip",
    "task": "IMP-COST-01",
    "created": "2026-11-02T09:40:00.000Z",
    "created_ms": 1_793_612_400_000,
    "state": "dead",
    "attempts": 10,
    "error": "answered 503",
}
_SESSION: Json = {
    "session": "5f0c0e2a-8f53-4d09-9d0e-5f6a5b1c7d11",
    "task": "IMP-COST-01",
    "phase": "IMPLEMENT",
    "by": "orchestrator",
    "bound": "2026-11-02T09:30:00.000Z",
    "expires": "2026-11-03T09:30:00.000Z",
    "expires_ms": 1_793_698_200_000,
}
_EXAMPLES: Mapping[tuple[type[BaseModel], int], Json] = {
    **KEY_EXAMPLES,
    **HISTORY_EXAMPLES,
    **REPORT_EXAMPLES,
    **RULE_EXAMPLES,
    **STATISTICS_EXAMPLES,
    (bodies.TaskPhasesBody, 200): {
        "task": "IMP-COST-01",
        "as_of": "2026-11-02T09:45:00.000Z",
        "phases": [_PHASE],
    },
    (bodies.TaskOverridesBody, 200): {
        "task": "IMP-COST-01",
        "as_of": "2026-11-02T09:45:00.000Z",
        "overrides": [_OVERRIDE],
    },
    (health.LivenessBody, 200): {"status": "ok"},
    (health.ReadinessBody, 200): _READY,
    (health.ReadinessBody, 503): _NOT_READY,
    (bodies.TaskPageBody, 200): {"tasks": [_SUMMARY], "next_cursor": "1793611800000:IMP-COST-01"},
    (bodies.TaskBody, 200): _TASK,
    (bodies.TaskRegisteredBody, 200): {"outcome": "same", "warnings": [], "task": _TASK},
    (bodies.TaskRegisteredBody, 201): {"outcome": "created", "warnings": [], "task": _TASK},
    (bodies.PhaseChangedBody, 200): {
        "phase": "VERIFY",
        "execution": 2,
        "changed": True,
        "parallel_to": None,
        "task": _TASK,
    },
    (bodies.GateBody, 200): {
        "task": "T",
        "phase": "VERIFY",
        "to": "REVIEW",
        "decision": "flag",
        "would_refuse": True,
        "policy": "stop-loss",
        "mode": "observe",
        "policy_hash": "8642d1b9e7c5",
        "config_hash": "0f3a5c7e9b1d2468",
        "breaches": [_BREACH],
    },
    (bodies.TaskChangedBody, 200): {
        "state": "open",
        "changed": True,
        "warnings": [],
        "task": _TASK,
    },
    (sessions.SessionBody, 200): _SESSION,
    (sessions.SessionPageBody, 200): {
        "sessions": [_SESSION],
        "next_cursor": "1793698200000:5f0c0e2a-8f53-4d09-9d0e-5f6a5b1c7d11",
    },
    (sessions.SessionChangedBody, 200): {"session": "5f0c0e2a", "changed": True},
    (bodies.CallCorrectedBody, 200): {
        "call": "c5f0c0e2a8f534d09-1",
        "changed": True,
        "before": {"tokens": 17_048, "cost_usd": "0.06", "nano_usd": 60_000_000},
        "after": {"tokens": 15_800, "cost_usd": "0.0474", "nano_usd": 47_400_000},
        "task": _TASK,
    },
    (outbox.RemediationListBody, 200): {"remediations": [_REMEDIATION]},
    (outbox.DeliveryListBody, 200): {"deliveries": [_DELIVERY]},
    (bodies.OverrideAppliedBody, 201): {"override": _OVERRIDE, "warnings": [], "task": _TASK},
}


def body_example(model: type[BaseModel], status: int) -> Json:
    """Return an example of an answer. Of a task's nine phases it shows one."""
    return _EXAMPLES[model, status]
