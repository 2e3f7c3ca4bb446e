"""`/admin/v1/sessions`, and each below it: which task a client's session works for (GW-9)."""

import re
from typing import Annotated

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.admin.act_requests import parse_request
from gateway.admin.answers import ApiError, json_answer, store_wait
from gateway.admin.auth import told_by
from gateway.admin.bodies import Body, Moment
from gateway.admin.body import read_json
from gateway.admin.override_requests import Approver, Phase, Reason
from gateway.admin.parts import PARTS
from gateway.admin.query import Query, invalid_query
from gateway.admin.registration_requests import TaskId
from gateway.admin.views import iso
from gateway.core.acts import Act
from gateway.core.sessions import SESSION_PATTERN, Binding
from gateway.store.limits import server_ms
from gateway.store.sessions import (
    SessionPlace,
    bind_session,
    list_sessions,
    read_session,
    unbind_session,
)

_DAY_S = 86_400
_MOST_S = 30 * _DAY_S
_SHOWN_CHARACTERS = 130
_CURSOR = re.compile(rf"([0-9]{{1,15}}):({SESSION_PATTERN.pattern})")
ACTOR_PARAMETERS = ("by", "reason")


class BindRequest(BaseModel):
    """Which task the session works for, and in which phase; none: the task's current one."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    task: TaskId
    phase: Phase | None = None
    expires_in_s: Annotated[int, Field(ge=1, le=_MOST_S)] = _DAY_S
    by: Approver = "admin"
    reason: Reason | None = None


class UnbindRequest(BaseModel):
    """Who says so and why, from the query."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    by: Approver = "admin"
    reason: Reason | None = None


class SessionBody(Body):
    """What a session is bound to, by whom and until when."""

    session: str
    task: str
    phase: str | None
    by: str
    bound: Moment
    expires: Moment
    expires_ms: int


class SessionPageBody(Body):
    """Sessions that are bound, the last to expire first."""

    sessions: list[SessionBody]
    next_cursor: str | None


class SessionChangedBody(Body):
    """Whether this request ended a binding."""

    session: str
    changed: bool


async def put_session(request: web.Request) -> web.Response:
    """Bind a session, in place of what it was bound to."""
    session_id, asked = _session_id(request), parse_request(BindRequest, await read_json(request))
    parts = request.app[PARTS]
    async with store_wait(request):
        now_ms = await server_ms(parts.connection)
        binding = Binding(
            asked.task, asked.phase, asked.by, now_ms, now_ms + asked.expires_in_s * 1000
        )
        details = {"task": asked.task, "phase": asked.phase.value if asked.phase else ""}
        act = told_by(request, Act("session.bind", asked.by, asked.reason or "", details))
        await bind_session(parts.connection, parts.names, session_id, binding, act)
    parts.event("session_bound", "info", session=session_id, task=asked.task, by=asked.by)
    return json_answer(_body(session_id, binding))


async def get_sessions(request: web.Request) -> web.Response:
    """Return the sessions that are bound, in pages."""
    query, parts = Query(request, ("limit", "cursor")), request.app[PARTS]
    limit, after = query.limit(), _after(query)
    async with store_wait(request):
        page = await list_sessions(parts.connection, parts.names, limit, after)
    following = page.following
    return json_answer(
        SessionPageBody(
            sessions=[_body(one.id, one.binding) for one in page.sessions if one.binding],
            next_cursor=f"{following.expires_ms}:{following.session_id}" if following else None,
        )
    )


async def get_session(request: web.Request) -> web.Response:
    """Return what a session is bound to."""
    session_id, parts = _session_id(request), request.app[PARTS]
    async with store_wait(request):
        session = await read_session(parts.connection, parts.names, session_id)
    if session.binding is None:
        raise ApiError(
            404,
            "unknown_session",
            f"The session {session_id} is bound to nothing. Remedy: PUT a binding here.",
            field="session",
        )
    return json_answer(_body(session_id, session.binding))


async def delete_session(request: web.Request) -> web.Response:
    """End a binding, if there is one."""
    session_id, parts, asked = _session_id(request), request.app[PARTS], _unbinding(request)
    act = told_by(request, Act("session.unbind", asked.by, asked.reason or ""))
    async with store_wait(request):
        changed = await unbind_session(parts.connection, parts.names, session_id, act)
    if changed:
        parts.event("session_unbound", "info", session=session_id, by=asked.by)
    return json_answer(SessionChangedBody(session=session_id, changed=changed))


def _unbinding(request: web.Request) -> UnbindRequest:
    query = Query(request, ACTOR_PARAMETERS)
    try:
        return UnbindRequest.model_validate(
            {name: text for name in ACTOR_PARAMETERS if (text := query.text(name))}
        )
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        raise invalid_query(name, "give one line of plain text, not too long") from None


def _after(query: Query) -> SessionPlace | None:
    text = query.text("cursor")
    if not text:
        return None
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise invalid_query("cursor", "give the next_cursor of an answer, or leave it out")
    return SessionPlace(int(match[1]), match[2])


def _body(session_id: str, binding: Binding) -> SessionBody:
    return SessionBody(
        session=session_id,
        task=binding.task,
        phase=binding.phase.value if binding.phase else None,
        by=binding.bound_by,
        bound=iso(binding.bound_ms),
        expires=iso(binding.expires_ms),
        expires_ms=binding.expires_ms,
    )


def _session_id(request: web.Request) -> str:
    session_id = request.match_info["session"]
    if SESSION_PATTERN.fullmatch(session_id):
        return session_id
    raise ApiError(
        400,
        "invalid_session_id",
        f"{session_id[:_SHOWN_CHARACTERS]!r} cannot be a session's id: a letter or digit, then up "
        "to 127 letters, digits, dots, underscores, colons, hyphens. Remedy: correct the path.",
        field="session",
    )
