"""The route table: what is served, and what each route's description says of it."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

from aiohttp.typedefs import Handler

from gateway.admin import (
    bodies,
    corrections,
    gate,
    health,
    metrics,
    outbox,
    overrides,
    phases,
    registration,
    sessions,
    steering,
    task_list,
    tasks,
)
from gateway.admin.act_requests import ActRequest, GateRequest, PhaseRequest
from gateway.admin.endpoint import EVERYWHERE, Endpoint
from gateway.admin.history_endpoints import HISTORY_ENDPOINTS
from gateway.admin.key_endpoints import KEY_ENDPOINTS
from gateway.admin.query import LIMIT_PARAMETER, PLACE_PARAMETER
from gateway.admin.registration_requests import RegisterRequest
from gateway.admin.report_endpoints import REPORT_ENDPOINTS
from gateway.admin.rule_endpoints import RULE_ENDPOINTS
from gateway.core.identity import ID_PATTERN
from gateway.core.phases import WorkPhase
from gateway.core.sessions import SESSION_PATTERN

_ID_PARAMETER = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "The task's id.",
    "schema": {"type": "string", "pattern": f"^{ID_PATTERN.pattern}$"},
    "example": "IMP-COST-01",
}
_PHASE_PARAMETER = {
    "name": "phase",
    "in": "path",
    "required": True,
    "description": "The phase, in any letter case.",
    "schema": {"type": "string", "enum": [phase.value for phase in WorkPhase]},
    "example": "VERIFY",
}
_SESSION_PARAMETER = {
    "name": "session",
    "in": "path",
    "required": True,
    "description": "The session's id, as the client sends it.",
    "schema": {"type": "string", "pattern": f"^{SESSION_PATTERN.pattern}$"},
    "example": "5f0c0e2a-8f53-4d09-9d0e-5f6a5b1c7d11",
}
_CALL_PARAMETER = {
    "name": "call",
    "in": "path",
    "required": True,
    "description": "The call's id, as `x-tollgate-call-id` of its answer names it.",
    "schema": {"type": "string", "pattern": f"^{ID_PATTERN.pattern}$"},
    "example": "c5f0c0e2a8f534d09-1",
}
_ACTOR_PARAMETERS = tuple(
    {
        "name": name,
        "in": "query",
        "description": "Who says so, or why: for the audit.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 200},
    }
    for name in sessions.ACTOR_PARAMETERS
)


def _outbox_parameters(states: Sequence[str]) -> tuple[Mapping[str, object], ...]:
    return (
        {
            "name": "task",
            "in": "query",
            "description": "Only those about this task.",
            "schema": {"type": "string"},
        },
        {
            "name": "state",
            "in": "query",
            "description": "Only those in this state.",
            "schema": {"type": "string", "enum": list(states)},
        },
        LIMIT_PARAMETER,
    )


_FROM_LEDGER: Mapping[int, tuple[str, ...]] = {
    400: ("invalid_query",),
    401: ("invalid_token",),
    500: ("internal_error",),
    503: ("ledger_unavailable",),
}

_WITH_BODY = {
    400: ("invalid_json", "invalid_body", "invalid_task_id"),
    404: ("unknown_task",),
    408: ("request_timeout",),
    413: ("body_too_large",),
    415: ("unsupported_encoding",),
    422: ("invalid_request",),
    **EVERYWHERE,
}


def _act(
    verb: str,
    handler: Handler,
    summary: str,
    more_errors: Mapping[int, tuple[str, ...]] | None = None,
) -> Endpoint:
    """Return the route of something that is done to a task, by somebody, for a reason."""
    return Endpoint(
        "POST",
        f"/admin/v1/tasks/{{id}}/{verb}",
        handler,
        f"{verb}Task",
        summary,
        bodies.TaskChangedBody,
        parameters=(_ID_PARAMETER,),
        errors={**_WITH_BODY, **(more_errors or {})},
        takes=ActRequest,
    )


def _phase(what: str, handler: Handler, summary: str) -> Endpoint:
    """Return the route of a phase's start or end."""
    invalid = (*_WITH_BODY[400], "invalid_phase")
    return Endpoint(
        "POST",
        f"/admin/v1/tasks/{{id}}/phases/{{phase}}/{what}",
        handler,
        f"{what}Phase",
        summary,
        bodies.PhaseChangedBody,
        parameters=(_ID_PARAMETER, _PHASE_PARAMETER),
        errors={**_WITH_BODY, 400: invalid},
        takes=PhaseRequest,
    )


ENDPOINTS = (
    Endpoint(
        "GET",
        "/healthz",
        health.get_liveness,
        "getLiveness",
        "Whether the process lives",
        health.LivenessBody,
        public=True,
    ),
    Endpoint(
        "GET",
        "/readyz",
        health.get_readiness,
        "getReadiness",
        "Whether the gateway can serve calls, and if not, why",
        health.ReadinessBody,
        also={503: health.ReadinessBody},
        public=True,
    ),
    Endpoint(
        "GET",
        "/metrics",
        metrics.get_metrics,
        "getMetrics",
        "Metrics in Prometheus' text format",
        media_type="text/plain",
        public=True,
    ),
    Endpoint(
        "GET",
        "/admin/v1/tasks",
        task_list.get_tasks,
        "listTasks",
        "Tasks, newest first",
        bodies.TaskPageBody,
        parameters=task_list.TASK_LIST_PARAMETERS,
        errors={400: ("invalid_query",), **EVERYWHERE},
    ),
    Endpoint(
        "POST",
        "/admin/v1/tasks",
        registration.post_task,
        "registerTask",
        "Register a task before its first call",
        bodies.TaskRegisteredBody,
        status=HTTPStatus.CREATED,
        errors={
            400: ("invalid_json", "invalid_body"),
            408: ("request_timeout",),
            409: ("task_exists",),
            413: ("body_too_large",),
            415: ("unsupported_encoding",),
            422: ("invalid_task",),
            **EVERYWHERE,
        },
        also={200: bodies.TaskRegisteredBody},
        takes=RegisterRequest,
    ),
    Endpoint(
        "GET",
        "/admin/v1/tasks/{id}",
        tasks.get_task,
        "getTask",
        "Everything that is known of a task",
        bodies.TaskBody,
        parameters=(_ID_PARAMETER,),
        errors={400: ("invalid_task_id",), 404: ("unknown_task",), **EVERYWHERE},
    ),
    Endpoint(
        "POST",
        "/admin/v1/tasks/{id}/overrides",
        overrides.post_override,
        "overrideTask",
        "Change what a task may use: attributed, reasoned, at once on every gateway",
        bodies.OverrideAppliedBody,
        status=HTTPStatus.CREATED,
        parameters=(_ID_PARAMETER,),
        errors={
            400: ("invalid_json", "invalid_body", "invalid_task_id"),
            404: ("unknown_task",),
            408: ("request_timeout",),
            413: ("body_too_large",),
            415: ("unsupported_encoding",),
            422: ("invalid_override", "not_enough_room", "override_out_of_bounds"),
            **EVERYWHERE,
        },
        takes_override=True,
    ),
    Endpoint(
        "GET",
        "/admin/v1/tasks/{id}/overrides",
        tasks.get_task_overrides,
        "listTaskOverrides",
        "A task's overrides, oldest first",
        bodies.TaskOverridesBody,
        parameters=(_ID_PARAMETER,),
        errors={400: ("invalid_task_id",), 404: ("unknown_task",), **EVERYWHERE},
    ),
    Endpoint(
        "GET",
        "/admin/v1/tasks/{id}/phases",
        tasks.get_task_phases,
        "listTaskPhases",
        "A task's phases in order, with their executions",
        bodies.TaskPhasesBody,
        parameters=(_ID_PARAMETER,),
        errors={400: ("invalid_task_id",), 404: ("unknown_task",), **EVERYWHERE},
    ),
    _act("kill", steering.post_kill, "Refuse every call of a task until it is resumed"),
    _act("resume", steering.post_resume, "End a task's kill and trip"),
    _act(
        "complete",
        steering.post_complete,
        "Close a task's executions and mark it completed",
        {409: ("wrong_state",)},
    ),
    _act(
        "reopen",
        steering.post_reopen,
        "Begin a new generation of a completed task: a whole budget again",
        {409: ("wrong_state",), 422: ("invalid_request", "override_out_of_bounds")},
    ),
    _phase("start", phases.post_phase_start, "Open the next execution of a phase"),
    _phase("end", phases.post_phase_end, "Close the open execution of a phase"),
    Endpoint(
        "POST",
        "/admin/v1/tasks/{id}/gate",
        gate.post_gate,
        "passGate",
        "Whether a task may leave a phase: the decision that a call would get",
        bodies.GateBody,
        parameters=(_ID_PARAMETER,),
        errors={
            **_WITH_BODY,
            409: ("BudgetExceeded", "wrong_state"),
            422: ("invalid_request", "unknown_key"),
        },
        takes=GateRequest,
    ),
    Endpoint(
        "POST",
        "/admin/v1/calls/{call}/correct",
        corrections.post_correction,
        "correctCall",
        "Mend what a call that has ended was charged",
        bodies.CallCorrectedBody,
        parameters=(_CALL_PARAMETER,),
        errors={
            **_WITH_BODY,
            400: ("invalid_json", "invalid_body", "invalid_call_id"),
            404: ("unknown_call", "unknown_task"),
            409: ("call_open", "wrong_state"),
            503: ("budget_store_unavailable", "ledger_unavailable", "ledger_behind"),
        },
        takes=corrections.CorrectRequest,
    ),
    Endpoint(
        "GET",
        "/admin/v1/sessions",
        sessions.get_sessions,
        "listSessions",
        "Clients' sessions that are bound to a task, the last to expire first",
        sessions.SessionPageBody,
        parameters=(LIMIT_PARAMETER, PLACE_PARAMETER),
        errors={400: ("invalid_query",), **EVERYWHERE},
    ),
    Endpoint(
        "PUT",
        "/admin/v1/sessions/{session}",
        sessions.put_session,
        "bindSession",
        "Say which task a client's session works for",
        sessions.SessionBody,
        parameters=(_SESSION_PARAMETER,),
        errors={
            400: ("invalid_json", "invalid_body", "invalid_session_id"),
            408: ("request_timeout",),
            413: ("body_too_large",),
            415: ("unsupported_encoding",),
            422: ("invalid_request",),
            **EVERYWHERE,
        },
        takes=sessions.BindRequest,
    ),
    Endpoint(
        "GET",
        "/admin/v1/sessions/{session}",
        sessions.get_session,
        "getSession",
        "What a client's session is bound to",
        sessions.SessionBody,
        parameters=(_SESSION_PARAMETER,),
        errors={400: ("invalid_session_id",), 404: ("unknown_session",), **EVERYWHERE},
    ),
    Endpoint(
        "DELETE",
        "/admin/v1/sessions/{session}",
        sessions.delete_session,
        "unbindSession",
        "End a session's binding",
        sessions.SessionChangedBody,
        parameters=(_SESSION_PARAMETER, *_ACTOR_PARAMETERS),
        errors={400: ("invalid_session_id", "invalid_query"), **EVERYWHERE},
    ),
    Endpoint(
        "GET",
        "/admin/v1/remediation",
        outbox.get_remediations,
        "listRemediation",
        "Tasks that are to mend breaches, newest first",
        outbox.RemediationListBody,
        parameters=_outbox_parameters(outbox.REMEDIATION_STATES),
        errors=_FROM_LEDGER,
        uses_store=False,
    ),
    Endpoint(
        "GET",
        "/admin/v1/deliveries",
        outbox.get_deliveries,
        "listDeliveries",
        "Notices for webhooks, newest first",
        outbox.DeliveryListBody,
        parameters=_outbox_parameters(outbox.DELIVERY_STATES),
        errors=_FROM_LEDGER,
        uses_store=False,
    ),
    *KEY_ENDPOINTS,
    *HISTORY_ENDPOINTS,
    *REPORT_ENDPOINTS,
    *RULE_ENDPOINTS,
)
