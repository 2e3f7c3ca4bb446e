"""The wording of our own answers: the only place that knows which HTTP status a code gets.

Refusals are written for agents (`docs/wire.md`): status 400 with `error.type: billing_error`,
`x-should-retry: false` and no `Retry-After` costs one request with nearly every client, where 402
and 429 cost several. What may be retried is no refusal and says so. One body serves OpenAI and
Anthropic clients, as each reads its own members of it.
"""

from dataclasses import dataclass

import msgspec

from gateway.core.identity import ErrorShape
from gateway.ports import Answer

_SERVER_ERROR = 500  # from here on clients decide by their own rules


@dataclass(frozen=True, slots=True)
class _Kind:
    status: int
    type: str
    google: str
    retry_after_s: int = 0


_REFUSAL = _Kind(400, "billing_error", "FAILED_PRECONDITION")
_OVERLOADED = _Kind(503, "overloaded_error", "UNAVAILABLE", 2)
_BAD = _Kind(400, "invalid_request_error", "INVALID_ARGUMENT")
_FORBIDDEN = _Kind(403, "permission_error", "PERMISSION_DENIED")
_MISSING = _Kind(404, "not_found_error", "NOT_FOUND")

_KINDS = {
    "budget_in_flight": _Kind(429, "rate_limit_error", "RESOURCE_EXHAUSTED", 2),
    "gateway_overloaded": _OVERLOADED,
    "upstream_busy": _OVERLOADED,
    "budget_store_unavailable": _OVERLOADED,
    "upstream_unreachable": _Kind(502, "api_error", "UNAVAILABLE"),
    "upstream_broken": _Kind(502, "api_error", "UNAVAILABLE"),
    "upstream_protocol_error": _Kind(502, "api_error", "UNAVAILABLE"),
    "upstream_timeout": _Kind(504, "api_error", "DEADLINE_EXCEEDED"),
    "internal_error": _Kind(500, "api_error", "INTERNAL"),
    "body_too_large": _Kind(413, "request_too_large", "INVALID_ARGUMENT"),
    "head_too_large": _Kind(431, "invalid_request_error", "INVALID_ARGUMENT"),
    "request_timeout": _Kind(408, "invalid_request_error", "DEADLINE_EXCEEDED"),
    "expectation_failed": _Kind(417, "invalid_request_error", "INVALID_ARGUMENT"),
    "unsupported_encoding": _Kind(415, "invalid_request_error", "INVALID_ARGUMENT"),
    "invalid_key": _Kind(401, "authentication_error", "UNAUTHENTICATED"),
    "forbidden_tag": _FORBIDDEN,
    "forbidden_upstream": _FORBIDDEN,
    "forbidden_model": _FORBIDDEN,
    "forbidden_origin": _FORBIDDEN,
    "unknown_route": _MISSING,
    "unknown_upstream": _MISSING,
    "invalid_tag": _BAD,
    "invalid_body": _BAD,
    "invalid_header": _BAD,
    "invalid_target": _BAD,
    "invalid_request": _BAD,
}
REFUSALS = frozenset(
    {
        "task_budget_exceeded",
        "phase_budget_exceeded",
        "runaway_task",
        "spend_limit_exceeded",
        "velocity_exceeded",
        "loop_detected",
        "task_killed",
        "task_blocked",
        "unpriced_model",
        "unmetered_route",
        "tags_required",
    }
)
OF_A_TASK = frozenset(
    {
        "task_budget_exceeded",
        "phase_budget_exceeded",
        "runaway_task",
        "velocity_exceeded",
        "loop_detected",
        "task_killed",
        "task_blocked",
    }
)
CODES = REFUSALS | frozenset(_KINDS)


class Refusals:
    """Words answers. `refusal_status` replaces the 400 of refusals (not of other answers)."""

    def __init__(self, refusal_status: int = 400) -> None:
        self._refusal_status = refusal_status

    def answer(
        self,
        code: str,
        message: str,
        shape: ErrorShape,
        call_id: str,
        refusal_status: int | None = None,
        task: str = "",
    ) -> Answer:
        """See ports.Wording."""
        kind = _KINDS.get(code, _REFUSAL)
        status = (refusal_status or self._refusal_status) if kind is _REFUSAL else kind.status
        headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
        if kind.retry_after_s:
            headers += [
                (b"x-should-retry", b"true"),
                (b"retry-after", b"%d" % kind.retry_after_s),
            ]
        elif status < _SERVER_ERROR:
            headers.append((b"x-should-retry", b"false"))
        return Answer(status, headers, _body(code, message, shape, call_id, status, task))


def _body(
    code: str, message: str, shape: ErrorShape, call_id: str, status: int, task: str
) -> bytes:
    kind = _KINDS.get(code, _REFUSAL)
    report = {"report": f"/admin/v1/tasks/{task}/report"} if task and code in OF_A_TASK else {}
    if shape is ErrorShape.GEMINI:
        return msgspec.json.encode(
            {
                "error": {
                    "code": status,
                    "message": message,
                    "status": kind.google,
                    "details": [{"reason": code, "call_id": call_id, **report}],
                }
            }
        )
    return msgspec.json.encode(
        {
            "type": "error",
            "error": {
                "type": kind.type,
                "code": code,
                "param": None,
                "message": message,
                "details": {"error_code": code, **report},
            },
            "request_id": call_id,
        }
    )
