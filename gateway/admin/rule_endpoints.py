"""Routes of the rules in force: policies and prices; and examples for their description."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from gateway.admin import dry_run, enforcement, policies, prices
from gateway.admin.endpoint import BODY_ERRORS, EVERYWHERE, WITHOUT_STORE, Endpoint
from gateway.admin.roles import Role

_PRICE_PARAMETERS = (
    {
        "name": "model",
        "in": "query",
        "required": True,
        "description": "The model's name, as calls send it.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 256},
        "example": "gpt-5.1",
    },
    {
        "name": "provider",
        "in": "query",
        "description": "Whose model, where the same costs more elsewhere; such as `azure`.",
        "schema": {"type": "string"},
    },
)

RULE_ENDPOINTS = (
    Endpoint(
        "GET",
        "/admin/v1/enforcement",
        enforcement.get_enforcement,
        "getEnforcement",
        "Whether policies refuse anything, and what keeps them from it",
        enforcement.EnforcementBody,
        errors=EVERYWHERE,
    ),
    Endpoint(
        "POST",
        "/admin/v1/enforcement",
        enforcement.post_enforcement,
        "switchEnforcement",
        "Switch all enforcement off or on, with the next call on every gateway",
        enforcement.EnforcementBody,
        errors={**BODY_ERRORS, **EVERYWHERE},
        takes=enforcement.EnforcementRequest,
        role=Role.ADMIN,
    ),
    Endpoint(
        "GET",
        "/admin/v1/policies",
        policies.get_policies,
        "listPolicies",
        "The policies in force, with their hash",
        policies.PoliciesBody,
        errors=WITHOUT_STORE,
        uses_store=False,
    ),
    Endpoint(
        "POST",
        "/admin/v1/policies/reload",
        policies.post_reload,
        "reloadPolicies",
        "Read budgets, policies, prices and roadmap anew",
        policies.PoliciesBody,
        errors={422: ("invalid_rules",), **EVERYWHERE},
    ),
    Endpoint(
        "POST",
        "/admin/v1/policies/dry-run",
        dry_run.post_dry_run,
        "dryRun",
        "What a call would be told now; nothing is held or counted",
        dry_run.DryRunBody,
        errors={**BODY_ERRORS, 422: ("invalid_request", "unknown_key"), **EVERYWHERE},
        takes=dry_run.DryRunRequest,
    ),
    Endpoint(
        "GET",
        "/admin/v1/prices",
        prices.get_prices,
        "getPrice",
        "What a model costs here",
        prices.PriceBody,
        parameters=_PRICE_PARAMETERS,
        errors={400: ("invalid_query",), 404: ("unknown_price",), **WITHOUT_STORE},
        uses_store=False,
    ),
)

_POLICIES = {
    "policy_hash": "8642d1b9e7c5",
    "config_hash": "0f3a5c7e9b1d2468",
    "budgets_source": "file",
    "enforcement_disabled": False,
    "policies": [
        {
            "kind": "stop_loss",
            "name": "stop-loss",
            "mode": "enforce",
            "settings": {"effect": "refuse", "enforce_from": "VERIFY", "reserve": "expected"},
        }
    ],
}
RULE_EXAMPLES: Mapping[tuple[type[BaseModel], int], dict[str, Any]] = {
    (policies.PoliciesBody, 200): _POLICIES,
    (enforcement.EnforcementBody, 200): {
        "enforcing": False,
        "switched_off": {
            "approver": "ada",
            "reason": "a wrong budget file stopped everybody",
            "token": None,
            "since_ms": 1_793_612_700_000,
            "until_ms": 1_793_616_300_000,
        },
        "disabled_by_environment": False,
        "stop_loss_enabled": True,
    },
    (dry_run.DryRunBody, 200): {
        "task": "IMP-COST-01",
        "phase": "VERIFY",
        "task_exists": True,
        "decision": "refuse",
        "would_refuse": False,
        "code": "task_budget_exceeded",
        "message": "Task IMP-COST-01 exceeded token budget: 31,600 / 23,400 (135%). ...",
        "retryable": False,
        "clamp": None,
        "model": "gpt-5.1",
        "grace": None,
        "policy": "stop-loss",
        "mode": "enforce",
        "policy_hash": "8642d1b9e7c5",
        "breaches": [
            {
                "scope": "task",
                "name": "IMP-COST-01",
                "dimension": "tokens",
                "used": 31_600,
                "allowed": 23_400,
                "line": 28_080,
            }
        ],
    },
    (prices.PriceBody, 200): {
        "model": "gpt-5.1",
        "provider": None,
        "usd_per_million": {
            "input": "1.25",
            "output": "10",
            "cached_read": "0.125",
            "cache_write": "1.25",
            "cache_write_1h": None,
            "reasoning": None,
        },
        "long_calls": [],
        "web_search": "0.01",
        "max_input_tokens": 272_000,
        "max_output_tokens": 128_000,
    },
}
RULE_REQUESTS: Mapping[type[BaseModel], Mapping[str, dict[str, Any]]] = {
    enforcement.EnforcementRequest: {
        "for an hour": {
            "value": {
                "enabled": False,
                "approver": "ada",
                "reason": "a wrong budget file stops everybody",
                "expires_in_s": 3_600,
            }
        },
        "on again": {"value": {"enabled": True, "approver": "ada", "reason": "mended"}},
    },
    dry_run.DryRunRequest: {
        "call": {
            "value": {
                "task": "IMP-COST-01",
                "phase": "VERIFY",
                "model": "gpt-5.1",
                "input_tokens": 15_000,
                "output_tokens": 800,
            }
        },
        "last call": {"value": {"task": "IMP-COST-01", "output_tokens": 2_000, "grace": True}},
    },
}
