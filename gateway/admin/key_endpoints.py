"""Routes of gateway keys, and examples for their description."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from gateway.admin import keys
from gateway.admin.endpoint import BODY_ERRORS, EVERYWHERE, Endpoint
from gateway.admin.roles import Role

_KEY_PARAMETER = {
    "name": "key",
    "in": "path",
    "required": True,
    "description": "The key's id, the middle part of its text.",
    "schema": {"type": "string", "pattern": "^[a-z0-9]{8}$"},
    "example": "k3y1d4aa",
}
_UNKNOWN = {404: ("unknown_key",)}

KEY_ENDPOINTS = (
    Endpoint(
        "GET",
        "/admin/v1/keys",
        keys.get_keys,
        "listKeys",
        "All gateway keys, without their secrets",
        keys.KeysBody,
        errors=EVERYWHERE,
    ),
    Endpoint(
        "POST",
        "/admin/v1/keys",
        keys.post_key,
        "createKey",
        "Make a gateway key; its text is shown this once",
        keys.KeyMadeBody,
        status=HTTPStatus.CREATED,
        errors={**BODY_ERRORS, **EVERYWHERE},
        takes=keys.KeyRequest,
        role=Role.ADMIN,
    ),
    Endpoint(
        "GET",
        "/admin/v1/keys/{key}",
        keys.get_key,
        "getKey",
        "A gateway key, without its secret",
        keys.KeyBody,
        parameters=(_KEY_PARAMETER,),
        errors={**_UNKNOWN, **EVERYWHERE},
    ),
    Endpoint(
        "POST",
        "/admin/v1/keys/{key}/rotate",
        keys.post_rotation,
        "rotateKey",
        "Give a key a new secret, shown this once; the old one is good for a while",
        keys.KeyMadeBody,
        parameters=(_KEY_PARAMETER,),
        errors={**BODY_ERRORS, **_UNKNOWN, 409: ("wrong_state",), **EVERYWHERE},
        takes=keys.RotateRequest,
        role=Role.ADMIN,
    ),
    Endpoint(
        "POST",
        "/admin/v1/keys/{key}/revoke",
        keys.post_revocation,
        "revokeKey",
        "Stop a key for good",
        keys.KeyBody,
        parameters=(_KEY_PARAMETER,),
        errors={**BODY_ERRORS, **_UNKNOWN, **EVERYWHERE},
        takes=keys.RevokeRequest,
        role=Role.ADMIN,
    ),
)

_NO_TAGS = {"task": None, "phase": None, "complexity": None, "importance": None}
_KEY = {
    "id": "k3y1d4aa",
    "name": "ci",
    "state": "ok",
    "version": 1,
    "tenant": "default",
    "team": "platform",
    "created": "2026-11-02T09:30:00.000Z",
    "created_ms": 1_793_611_800_000,
    "expires_ms": None,
    "revoked_ms": None,
    "previous_until_ms": 0,
    "upstreams": ["openai"],
    "models": ["gpt-*"],
    "may_set": ["task", "phase"],
    "pins": _NO_TAGS,
    "defaults": {**_NO_TAGS, "phase": "IMPLEMENT"},
    "may_claim_critical": False,
    "refusal_status": None,
    "tasks_per_hour": None,
    "open_tasks": None,
}
_MADE = {**_KEY, "key": "tg-k3y1d4aa-<43 letters and digits>"}
KEY_EXAMPLES: Mapping[tuple[type[BaseModel], int], dict[str, Any]] = {
    (keys.KeysBody, 200): {"keys": [_KEY]},
    (keys.KeyBody, 200): _KEY,
    (keys.KeyMadeBody, 200): _MADE,
    (keys.KeyMadeBody, 201): _MADE,
}
KEY_REQUESTS: Mapping[type[BaseModel], Mapping[str, dict[str, Any]]] = {
    keys.KeyRequest: {
        "key": {
            "value": {
                "name": "ci",
                "team": "platform",
                "upstreams": ["openai"],
                "models": ["gpt-*"],
                "may_set": ["task", "phase"],
                "defaults": {"phase": "IMPLEMENT"},
                "days": 90,
                "by": "ada@example.com",
            }
        }
    },
    keys.RotateRequest: {"rotation": {"value": {"grace_hours": 24, "by": "ada@example.com"}}},
    keys.RevokeRequest: {
        "revocation": {"value": {"by": "ada@example.com", "reason": "It was in a log."}}
    },
}
