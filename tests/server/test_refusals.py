"""What our own answers say, and to whom."""

import json
from typing import Any

import pytest

from gateway.core.identity import ErrorShape
from gateway.server.refusals import CODES, OF_A_TASK, REFUSALS, Refusals

BOTH = ErrorShape.OPENAI_ANTHROPIC


def answer_to(code: str, shape: ErrorShape = BOTH, status: int = 400) -> tuple[int, Any, Any]:
    answer = Refusals(status).answer(code, "Because.", shape, "c1")
    return answer.status, dict(answer.headers), json.loads(answer.body)


@pytest.mark.parametrize("code", sorted(REFUSALS))
def test_a_refusal_costs_one_request(code: str) -> None:
    """400, billing_error, not to be retried, and nothing that invites to wait."""
    status, headers, body = answer_to(code)
    assert status == 400
    assert headers == {
        b"content-type": b"application/json",
        b"cache-control": b"no-store",
        b"x-should-retry": b"false",
    }
    assert body == {
        "type": "error",
        "error": {
            "type": "billing_error",
            "code": code,
            "param": None,
            "message": "Because.",
            "details": {"error_code": code},
        },
        "request_id": "c1",
    }


@pytest.mark.parametrize("code", sorted(CODES))
@pytest.mark.parametrize("shape", list(ErrorShape))
def test_SL3b_a_task_that_is_stopped_is_told_where_its_report_is(
    code: str, shape: ErrorShape
) -> None:
    """Only where it is the task's own budget or state that stops it."""
    answer = Refusals().answer(code, "Because.", shape, "c1", task="T-1")
    told = json.loads(answer.body)["error"]["details"]
    (details,) = told if shape is ErrorShape.GEMINI else [told]
    expected = "/admin/v1/tasks/T-1/report" if code in OF_A_TASK else None
    assert details.get("report") == expected


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("budget_in_flight", 429),
        ("gateway_overloaded", 503),
        ("upstream_busy", 503),
        ("budget_store_unavailable", 503),
    ],
)
def test_what_may_be_retried_says_so_and_when(code: str, status: int) -> None:
    """Soon: a long wait would be slept in full."""
    found, headers, body = answer_to(code)
    assert found == status
    assert (headers[b"retry-after"], headers[b"x-should-retry"]) == (b"2", b"true")
    assert body["error"]["type"] != "billing_error"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("upstream_unreachable", 502),
        ("upstream_broken", 502),
        ("upstream_timeout", 504),
        ("internal_error", 500),
    ],
)
def test_the_providers_side_leaves_it_to_the_client(code: str, status: int) -> None:
    """Clients decide by their own rules."""
    found, headers, _ = answer_to(code)
    assert found == status
    assert b"x-should-retry" not in headers


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("body_too_large", 413),
        ("head_too_large", 431),
        ("request_timeout", 408),
        ("unsupported_encoding", 415),
        ("invalid_key", 401),
        ("forbidden_tag", 403),
        ("unknown_route", 404),
        ("unknown_upstream", 404),
        ("invalid_tag", 400),
        ("invalid_body", 400),
        ("invalid_header", 400),
        ("invalid_target", 400),
        ("invalid_request", 400),
    ],
)
def test_a_faulty_request_is_not_to_be_repeated(code: str, status: int) -> None:
    """It would be as faulty the next time."""
    found, headers, body = answer_to(code)
    assert found == status
    assert headers[b"x-should-retry"] == b"false"
    assert body["error"]["code"] == code


def test_the_status_of_refusals_can_be_set() -> None:
    """That of other answers cannot."""
    assert answer_to("task_budget_exceeded", status=402)[0] == 402
    assert answer_to("invalid_body", status=402)[0] == 400
    assert answer_to("budget_in_flight", status=402)[0] == 429


@pytest.mark.parametrize("code", sorted(CODES))
def test_gemini_clients_read_their_own_shape(code: str) -> None:
    """A number as code, a status in words, ours among the details."""
    status, _, body = answer_to(code, ErrorShape.GEMINI)
    error = body["error"]
    assert (error["code"], error["message"]) == (status, "Because.")
    assert error["status"].isupper()
    assert error["details"] == [{"reason": code, "call_id": "c1"}]
