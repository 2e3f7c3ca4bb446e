"""`/admin/v1/keys`: gateway keys, as `tollgate keys` makes, shows, rotates and revokes them."""

import time
from typing import Annotated, Any, Literal, get_args

import msgspec
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from gateway.admin.act_requests import parse_request
from gateway.admin.answers import ApiError, json_answer, store_wait
from gateway.admin.auth import told_by
from gateway.admin.bodies import Body, Moment
from gateway.admin.body import read_json
from gateway.admin.override_requests import Approver, Phase, Reason
from gateway.admin.parts import PARTS
from gateway.admin.registration_requests import ComplexityTier, Importance, TaskId
from gateway.admin.views import iso
from gateway.core.acts import Act
from gateway.core.errors import KeyIsOver
from gateway.core.keys import (
    TAG_NAMES,
    GatewayKey,
    TagTexts,
    changed,
    public_fields,
    rotated,
    secret_digest,
)
from gateway.store.key_making import key_text, new_id, new_secret
from gateway.store.key_store import KeyStore

_HOUR_MS = 3_600_000
_SHOWN_CHARACTERS = 40
_STRICT = ConfigDict(defer_build=True, extra="forbid", frozen=True, strict=True)
_CREATED = 201

TagName = Literal["task", "phase", "complexity", "importance", "parent", "grace"]
assert get_args(TagName) == TAG_NAMES  # noqa: S101
Name = Annotated[str, Field(min_length=1, max_length=128)]


class KeyTagsRequest(BaseModel):
    """Tags that the key brings along."""

    model_config = _STRICT

    task: TaskId | None = None
    phase: Phase | None = None
    complexity: ComplexityTier | None = None
    importance: Importance | None = None


class KeyRequest(BaseModel):
    """A new key. Empty `upstreams` or `models` allow all; `may_set` null lets calls set any tag."""

    model_config = _STRICT

    name: Approver
    team: Annotated[str, Field(max_length=128)] = ""
    upstreams: list[Name] = []
    models: list[Name] = []
    may_set: list[TagName] | None = None
    pins: KeyTagsRequest = KeyTagsRequest()
    defaults: KeyTagsRequest = KeyTagsRequest()
    may_claim_critical: bool = False
    refusal_status: Annotated[int, Field(ge=400, le=499)] | None = None
    tasks_per_hour: Annotated[int, Field(ge=1, le=10**9)] | None = None
    open_tasks: Annotated[int, Field(ge=1, le=10**6)] | None = None
    days: Annotated[int, Field(ge=1, le=3650)] | None = None
    by: Approver = "admin"
    reason: Reason | None = None


class RotateRequest(BaseModel):
    """How long the old secret is good for yet; who says so and why."""

    model_config = _STRICT

    grace_hours: Annotated[int, Field(ge=0, le=720)] = 24
    by: Approver = "admin"
    reason: Reason | None = None


class RevokeRequest(BaseModel):
    """Who says so and why."""

    model_config = _STRICT

    by: Approver = "admin"
    reason: Reason | None = None


class KeyTagsBody(Body):
    """Tags that a key brings along; null is not said."""

    task: str | None
    phase: str | None
    complexity: str | None
    importance: str | None


class KeyBody(Body):
    """Everything of a key that may be shown; neither its secret nor a digest of it."""

    id: str
    name: str
    state: Literal["ok", "revoked", "expired"]
    version: int
    tenant: str
    team: str
    created: Moment
    created_ms: int
    expires_ms: int | None
    revoked_ms: int | None
    previous_until_ms: int = Field(description="The secret before is good until then; 0: none is.")
    upstreams: list[str]
    models: list[str]
    may_set: list[str] | None
    pins: KeyTagsBody
    defaults: KeyTagsBody
    may_claim_critical: bool
    refusal_status: int | None
    tasks_per_hour: int | None
    open_tasks: int | None


class KeyMadeBody(KeyBody):
    """A key with its text, `key`: it is shown this once."""

    key: str


class KeysBody(Body):
    """All keys, oldest first."""

    keys: list[KeyBody]


async def get_keys(request: web.Request) -> web.Response:
    """Return all keys."""
    parts = request.app[PARTS]
    async with store_wait(request):
        keys = await KeyStore(parts.connection).read_all()
    shown = [KeyBody(**_fields(key)) for key in keys if key.tenant == parts.names.tenant]
    return json_answer(KeysBody(keys=shown))


async def get_key(request: web.Request) -> web.Response:
    """Return a key."""
    async with store_wait(request):
        key = await _known(request)
    return json_answer(KeyBody(**_fields(key)))


async def post_key(request: web.Request) -> web.Response:
    """Make a key; its text stands in this answer and nowhere else."""
    asked = parse_request(KeyRequest, await read_json(request))
    parts, secret, now_ms = request.app[PARTS], new_secret(), _now_ms()
    key = GatewayKey(
        id=new_id(),
        secret_sha256=secret_digest(secret.encode()),
        name=asked.name,
        tenant=parts.names.tenant,
        team=asked.team,
        created_ms=now_ms,
        expires_ms=None if asked.days is None else now_ms + asked.days * 24 * _HOUR_MS,
        upstreams=tuple(asked.upstreams),
        models=tuple(asked.models),
        may_set=None if asked.may_set is None else tuple(asked.may_set),
        pins=TagTexts(**dict(asked.pins)),
        defaults=TagTexts(**dict(asked.defaults)),
        may_claim_critical=asked.may_claim_critical,
        refusal_status=asked.refusal_status,
        tasks_per_hour=asked.tasks_per_hour,
        open_tasks=asked.open_tasks,
    )
    async with store_wait(request):
        await KeyStore(parts.connection).add(key, _act(request, key, "create", asked))
    _say(request, key, "create", asked.by)
    return json_answer(KeyMadeBody(**_fields(key), key=key_text(key, secret)), _CREATED)


async def post_rotation(request: web.Request) -> web.Response:
    """Give a key a new secret; the old one is good for the hours of grace."""
    asked = parse_request(RotateRequest, await read_json(request))
    secret, grace_ms = new_secret(), asked.grace_hours * _HOUR_MS

    def change(key: GatewayKey) -> GatewayKey:
        return rotated(key, secret.encode(), now_ms=_now_ms(), grace_ms=grace_ms)

    async with store_wait(request):
        store, known = KeyStore(request.app[PARTS].connection), await _known(request)
        act = _act(request, known, "rotate", asked)
        try:
            key = await store.change(known.id, change, act) or known
        except KeyIsOver as error:
            raise ApiError(409, "wrong_state", str(error), field="key") from None
    _say(request, key, "rotate", asked.by)
    return json_answer(KeyMadeBody(**_fields(key), key=key_text(key, secret)))


async def post_revocation(request: web.Request) -> web.Response:
    """Stop a key for good, at its next call on every gateway; a second time changes nothing."""
    asked = parse_request(RevokeRequest, await read_json(request))
    now_ms = _now_ms()
    async with store_wait(request):
        store, key = KeyStore(request.app[PARTS].connection), await _known(request)
        if key.revoked_ms is None:
            act = _act(request, key, "revoke", asked)
            revoked = await store.change(key.id, lambda key: changed(key, revoked_ms=now_ms), act)
            key = revoked or key
            _say(request, key, "revoke", asked.by)
    return json_answer(KeyBody(**_fields(key)))


async def _known(request: web.Request) -> GatewayKey:
    parts, key_id = request.app[PARTS], request.match_info["key"]
    key = await KeyStore(parts.connection).read(key_id)
    if key is not None and key.tenant == parts.names.tenant:
        return key
    raise ApiError(
        404,
        "unknown_key",
        f"There is no key {key_id[:_SHOWN_CHARACTERS]!r}. Remedy: GET /admin/v1/keys lists those "
        "there are; a key's id is its text's middle part.",
        field="key",
    )


def _act(
    request: web.Request,
    key: GatewayKey,
    verb: str,
    asked: KeyRequest | RotateRequest | RevokeRequest,
) -> Act:
    return told_by(request, Act(f"key.{verb}", asked.by, asked.reason or "", {"name": key.name}))


def _say(request: web.Request, key: GatewayKey, verb: str, by: str) -> None:
    event = request.app[PARTS].event
    event(f"key_{verb}", "warning", key=key.id, key_name=key.name, by=by)


def _fields(key: GatewayKey) -> dict[str, Any]:
    """Return the members of a `KeyBody`."""
    fields: dict[str, Any] = msgspec.to_builtins(
        {**public_fields(key), "pins": _tags(key.pins), "defaults": _tags(key.defaults)}
    )
    return {**fields, "state": key.state_at(_now_ms()), "created": iso(key.created_ms)}


def _tags(tags: TagTexts) -> dict[str, object]:
    return {name: getattr(tags, name) for name in KeyTagsBody.model_fields}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
