"""`GET /admin/v1/tasks`: tasks in pages, by where they are in their life and how they stand."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiohttp import web

from gateway.admin.answers import json_answer, store_wait
from gateway.admin.bodies import TaskPageBody
from gateway.admin.parts import PARTS
from gateway.admin.query import LIMIT_PARAMETER, PLACE_PARAMETER, Query, invalid_query
from gateway.admin.views import summary_body
from gateway.core.acts import TaskState
from gateway.core.budget import BreachStatus
from gateway.core.identity import ID_PATTERN
from gateway.core.phases import (
    Complexity,
    ImportanceTier,
    Term,
    WorkPhase,
    allowed_terms,
    parse_term,
)
from gateway.store.task_view import Place, StopState, TaskSummary
from gateway.store.tasks import list_tasks

_STATUSES = tuple(state.value for state in TaskState)
_BREACH_STATUSES = tuple(status.value for status in BreachStatus)
_STOPS = tuple(state.value for state in StopState)
_CURSOR = re.compile(rf"([0-9]{{1,15}}):({ID_PATTERN.pattern})")


def _filter(name: str, meaning: str, words: Sequence[str] = ()) -> Mapping[str, object]:
    """Return the description of a parameter; without `words` it is in any letter case."""
    schema: dict[str, Any] = {"type": "string"}
    if words:
        schema["enum"] = list(words)
    return {"name": name, "in": "query", "description": meaning, "schema": schema}


TASK_LIST_PARAMETERS = (
    LIMIT_PARAMETER,
    PLACE_PARAMETER,
    _filter("status", "Only tasks that are there in their life: their `state`.", _STATUSES),
    _filter(
        "breach_status",
        "Only tasks whose budget stands like this: their `status`, the worst of tokens, cost and "
        "calls.",
        _BREACH_STATUSES,
    ),
    _filter("stop_loss", "Only tasks with this state of their stop-loss.", _STOPS),
    _filter("phase", "Only tasks whose current phase is this, in any letter case."),
    _filter("complexity", "Only tasks of this complexity, in any letter case."),
    _filter("importance", "Only tasks of this importance, in any letter case."),
)
_PARAMETERS = tuple(str(parameter["name"]) for parameter in TASK_LIST_PARAMETERS)


async def get_tasks(request: web.Request) -> web.Response:
    """Return tasks, newest first; `next_cursor` goes on where the page ends."""
    query = Query(request, _PARAMETERS)
    limit, after, wanted = query.limit(), _after(query), _wanted(query)
    parts = request.app[PARTS]
    async with store_wait(request):
        page = await list_tasks(parts.connection, parts.names, limit, after, wanted)
    following = page.following
    return json_answer(
        TaskPageBody(
            tasks=[summary_body(task) for task in page.tasks],
            next_cursor=f"{following.created_ms}:{following.task_id}" if following else None,
        )
    )


def _after(query: Query) -> Place | None:
    text = query.text("cursor")
    if not text:
        return None
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise invalid_query("cursor", "give the next_cursor of an answer, or leave it out")
    return Place(int(match[1]), match[2])


def _wanted(query: Query) -> Callable[[TaskSummary], bool]:
    """Return whether a task passes the filters."""
    status = query.one_of("status", _STATUSES)
    breach_status = query.one_of("breach_status", _BREACH_STATUSES)
    stop = query.one_of("stop_loss", _STOPS)
    phase = _term(query, "phase", WorkPhase)
    complexity = _term(query, "complexity", Complexity)
    importance = _term(query, "importance", ImportanceTier)

    def wanted(task: TaskSummary) -> bool:
        return (
            phase in (None, task.current_phase)
            and complexity in (None, task.facts.complexity)
            and importance in (None, task.facts.importance)
            and status in ("", task.state.value)
            and breach_status in ("", task.status.value)
            and stop in ("", task.stop_loss.state.value)
        )

    return wanted


def _term(query: Query, name: str, vocabulary: type[Term]) -> Term | None:
    """Return a parameter of a closed vocabulary, in any letter case; None if it is not given."""
    text = query.text(name)
    term = parse_term(vocabulary, text)
    if text and term is None:
        raise invalid_query(name, f"choose one of {allowed_terms(vocabulary)}")
    return term
