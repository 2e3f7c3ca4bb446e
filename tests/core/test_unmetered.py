"""Routes that no wire format meters: what is free is known, the rest is refused when enforcing."""

import pytest

from gateway.core.decision import Outcome
from gateway.core.policy import Effect, FreeRoute, Mode, UnmeteredRoutePolicy
from gateway.core.unmetered import RouteKind, decide_unmetered, is_later_answer, kind_of

FREE = """
GET /v1/models
GET /v1/batches/batch_1
DELETE /v1/files/file-1
HEAD /v1/models
POST /v1/moderations
POST /v1/messages/count_tokens
POST /v1/responses/input_tokens
POST /v1beta/models/gemini-2.5-pro:countTokens
POST /v1/files
POST /v1/uploads
POST /v1/uploads/upload_1/parts
POST /v1/uploads/upload_1/complete
POST /upload/v1beta/files
POST /v1/conversations
POST /v1/conversations/conv_1/items
POST /v1/threads
POST /v1/threads/thread_1
POST /v1/threads/thread_1/messages
POST /v1/chat/completions/chatcmpl-1
POST /v1/responses/resp_1/cancel
POST /v1/batches/batch_1/cancel
POST /v1/threads/thread_1/runs/run_1/cancel
POST /v1/fine_tuning/jobs/job_1/cancel
POST /api/show
POST /openai/v1/FILES/
"""
UNMETERED = """
POST /v1/batches
POST /v1/messages/batches
POST /v1/videos
POST /v1/videos/video_1/remix
POST /v1/threads/runs
POST /v1/threads/thread_1/runs
POST /v1/threads/thread_1/runs/run_1/submit_tool_outputs
POST /v1/assistants
POST /v1/fine_tuning/jobs
POST /v1/evals
POST /v1/evals/eval_1/runs
POST /v1/containers
POST /v1/vector_stores/vs_1/search
POST /v1/complete
POST /v1/unheard_of
POST /v1beta/models/gemini-2.5-pro:batchGenerateContent
POST /v1/files%2f../chat
PUT /v1/chat/completions
PATCH /v1/unheard_of
GET /v1/realtime
GET /openai/v1/live
"""
HAND_OUTS = """
POST /v1/realtime/client_secrets
POST /v1/realtime/calls
POST /v1/realtime/sessions
POST /v1/realtime/transcription_sessions
POST /v1/live/sessions
POST /v1/chatkit/sessions
POST /openai/v1/Realtime/Client_Secrets
"""


def kind(line: str) -> RouteKind:
    method, path = line.encode().split(b" ")
    return kind_of(method, path)


@pytest.mark.parametrize("line", FREE.split("\n")[1:-1])
def test_what_costs_no_tokens_is_free(line: str) -> None:
    """Reading, counting, keeping, stopping."""
    assert kind(line) is RouteKind.FREE


@pytest.mark.parametrize("line", UNMETERED.split("\n")[1:-1])
def test_anything_else_cannot_be_metered(line: str) -> None:
    """Known or not."""
    assert kind(line) is RouteKind.UNMETERED


@pytest.mark.parametrize("line", HAND_OUTS.split("\n")[1:-1])
def test_ways_past_the_gateway(line: str) -> None:
    """Whoever has one needs no gateway any more."""
    assert kind(line) is RouteKind.HAND_OUT


@pytest.mark.parametrize(
    ("mode", "effect", "declared", "outcome", "would_refuse"),
    [
        (Mode.ENFORCE, Effect.REFUSE, False, Outcome.REFUSE, False),
        (Mode.ENFORCE, Effect.REFUSE, True, Outcome.ALLOW, False),
        (Mode.ENFORCE, Effect.FLAG, False, Outcome.FLAG, False),
        (Mode.OBSERVE, Effect.REFUSE, False, Outcome.FLAG, True),
        (Mode.OBSERVE, Effect.REFUSE, True, Outcome.ALLOW, False),
        (Mode.OFF, Effect.REFUSE, False, Outcome.ALLOW, False),
    ],
)
def test_the_decision(
    mode: Mode, effect: Effect, declared: bool, outcome: Outcome, would_refuse: bool
) -> None:
    """Refused when enforcing, flagged otherwise, unless the operator says that it is free."""
    free = (FreeRoute("POST", "/v1/batches"),) if declared else ()
    policy = UnmeteredRoutePolicy(effect=effect, free=free)
    decision = decide_unmetered(b"POST", b"/v1/batches", policy, mode)
    assert (decision.outcome, decision.would_refuse) == (outcome, would_refuse)
    assert decision.code == ("" if outcome is Outcome.ALLOW else "unmetered_route")


@pytest.mark.parametrize(
    ("path", "why"), [(b"/v1/batches", "cannot be metered"), (b"/v1/realtime/calls", "hands out")]
)
def test_a_refusal_says_what_to_do(path: bytes, why: str) -> None:
    """To the agent, and to whoever reads its log."""
    message = decide_unmetered(b"POST", path, UnmeteredRoutePolicy(), Mode.ENFORCE).message
    assert why in message
    assert "`free:` in a policy of kind unmetered_route" in message


def test_a_free_route_is_free_in_every_mode() -> None:
    """Nobody has to declare it."""
    decision = decide_unmetered(b"GET", b"/v1/models", UnmeteredRoutePolicy(), Mode.ENFORCE)
    assert decision.outcome is Outcome.ALLOW


@pytest.mark.parametrize(
    ("path", "is_later"),
    [
        (b"/v1/responses/resp_1", True),
        (b"/v1/responses/resp_1/cancel", True),
        (b"/v1/responses", False),
        (b"/v1/responses/resp_1/input_items", False),
    ],
)
def test_where_answers_come_later(path: bytes, is_later: bool) -> None:
    """A response that was asked for in the background is fetched, or cancelled, by its id."""
    assert is_later_answer(path) is is_later


@pytest.mark.parametrize(
    "path",
    [
        b"/v1/chat/completions%3F/files",
        b"/v1/chat/completions%253F/files",
        b"/v1/chat/completions%23/files",
        b"/v1/chat/completions;/files",
        b"/v1/chat/completions%3B/files",
        b"/v1beta/models/gemini:generateContent:countTokens",
    ],
)
def test_a_model_call_cannot_wear_the_end_of_a_free_route(path: bytes) -> None:
    """Where a server may cut off what we would go by."""
    assert kind_of(b"POST", path) is RouteKind.UNMETERED


@pytest.mark.parametrize("asks_model", [True, False])
def test_a_request_that_reads_may_ask_a_model_all_the_same(asks_model: bool) -> None:
    """With a body on the path of a model call, it counts as one."""
    decision = decide_unmetered(
        b"GET",
        b"/v1/chat/completions",
        UnmeteredRoutePolicy(),
        Mode.ENFORCE,
        asks_model=asks_model,
    )
    assert decision.refuses is asks_model
