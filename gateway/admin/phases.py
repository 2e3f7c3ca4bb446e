"""`POST .../phases/{phase}/start` and `.../end`: the orchestrator says where the work is."""

from typing import Literal

from aiohttp import web

from gateway.admin.act_requests import PhaseRequest, parse_request
from gateway.admin.answers import ApiError, json_answer, store_wait
from gateway.admin.auth import told_by
from gateway.admin.bodies import PhaseChangedBody
from gateway.admin.body import read_json
from gateway.admin.parts import PARTS
from gateway.admin.tasks import read_back, task_id_of
from gateway.admin.views import task_body
from gateway.core.acts import Act
from gateway.core.phases import WorkPhase, allowed_terms, parse_term
from gateway.store.phases import mark_phase

_SHOWN_CHARACTERS = 40


async def post_phase_start(request: web.Request) -> web.Response:
    """Begin a phase by word: the execution that is open goes on, or the next one opens."""
    return await _answer(request, "start")


async def post_phase_end(request: web.Request) -> web.Response:
    """Close the execution of a phase that is open."""
    return await _answer(request, "end")


async def _answer(request: web.Request, what: Literal["start", "end"]) -> web.Response:
    task_id, phase = task_id_of(request), phase_of(request)
    asked = parse_request(PhaseRequest, await read_json(request))
    parts = request.app[PARTS]
    act = told_by(request, Act(f"phase.{what}", asked.by, "", {"phase": phase.value}))
    async with store_wait(request):
        change = await mark_phase(parts.connection, parts.names, task_id, phase, what, act)
    if change.parallel_to is not None:
        other = change.parallel_to.value
        parts.event("parallel_phases", "critical", task=task_id, phase=phase.value, other=other)
    view = await read_back(request, task_id)
    return json_answer(
        PhaseChangedBody(
            phase=phase.value,
            execution=change.execution,
            changed=change.changed,
            parallel_to=change.parallel_to.value if change.parallel_to else None,
            task=task_body(view) if view else None,
        )
    )


def phase_of(request: web.Request) -> WorkPhase:
    """Return the phase that the path names, in any letter case. Raises ApiError."""
    text = request.match_info["phase"]
    phase = parse_term(WorkPhase, text)
    if phase is None:
        shown = text[:_SHOWN_CHARACTERS]
        message = f"{shown!r} is no phase. Remedy: choose one of {allowed_terms(WorkPhase)}."
        raise ApiError(400, "invalid_phase", message, field="phase")
    return phase
