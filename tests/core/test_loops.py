"""GW-13: what is the same request, and what a loop comes to."""

import json
from typing import Any

import pytest

from gateway.core.loops import (
    VOLATILE,
    LoopPlan,
    LoopPolicy,
    LoopStanding,
    fingerprint_of,
    growing_after,
    loop_events,
    loop_mark,
    loop_message,
    plan_loop,
    repeats_of,
)
from gateway.core.mark import Mark
from gateway.core.policy import Effect, Mode

MESSAGES = [{"role": "user", "content": "hello"}]
PLAN = LoopPlan("loop", "f", 3, 600_000, growing_calls=2, growing_output_tokens=50)


def fingerprint(model: str = "m", dialect: str = "openai_chat", **members: Any) -> str:
    body = json.dumps({"model": model, "messages": MESSAGES, **members}).encode()
    return fingerprint_of(dialect, model, body)


def test_the_same_request_has_the_same_fingerprint() -> None:
    """Whatever changes from call to call without changing what is asked."""
    assert len(fingerprint()) == 24
    for name in VOLATILE:
        assert fingerprint(**{name: "one"}) == fingerprint(**{name: {"a": [2]}}) == fingerprint()


def test_another_request_has_another() -> None:
    other = [{"role": "user", "content": "hello "}]
    different = [
        fingerprint(),
        fingerprint(model="n"),
        fingerprint(dialect="openai_responses"),
        fingerprint(messages=other),
        fingerprint(seed=1),
        fingerprint(seed=2),
        fingerprint(x_user="u"),
    ]
    assert len(set(different)) == len(different)


def test_what_is_no_object_counts_whole() -> None:
    """Forms, and what a strict reader refuses."""
    assert fingerprint_of("openai_audio", "m", b"--x\r\n") == fingerprint_of(
        "openai_audio", "m", b"--x\r\n"
    )
    assert fingerprint_of("a", "m", b"--x") != fingerprint_of("a", "m", b"--y")
    assert fingerprint_of("a", "\ud800", b"[]") != fingerprint_of("a", "m", b"[]")


def test_what_does_not_say_what_is_asked_has_none() -> None:
    """A realtime session's conversation is at the provider; some responses begin by themselves."""
    assert fingerprint(dialect="openai_realtime") == ""
    assert fingerprint_of("openai_responses", "m", b"{}") == ""


def test_only_calls_within_the_window_count() -> None:
    earlier = [(900, "f"), (400, "f"), (399, "g"), (100, "f"), (50, "f")]
    assert repeats_of("f", earlier, now_ms=1_000, window_ms=900) == 3
    assert repeats_of("f", earlier, now_ms=1_000, window_ms=901) == 4
    assert repeats_of("h", earlier, now_ms=1_000, window_ms=900) == 1


@pytest.mark.parametrize(
    ("effect", "mode", "refuses", "would_refuse"),
    [
        (Effect.REFUSE, Mode.ENFORCE, True, False),
        (Effect.REFUSE, Mode.OBSERVE, False, True),
        (Effect.FLAG, Mode.ENFORCE, False, False),
        (Effect.FLAG, Mode.OBSERVE, False, False),
    ],
)
def test_what_a_policy_asks(effect: Effect, mode: Mode, refuses: bool, would_refuse: bool) -> None:
    plan = plan_loop(LoopPolicy(effect=effect, growing_calls=4), mode, "f")
    assert plan == LoopPlan("loop", "f", 20, 600_000, refuses, would_refuse, 4, 200)


def test_a_policy_that_is_off_or_not_there_asks_nothing() -> None:
    assert plan_loop(LoopPolicy(), Mode.OFF, "f") is None
    assert plan_loop(None, Mode.ENFORCE, "f") is None


@pytest.mark.parametrize(
    ("standing", "would_refuse", "mark", "events"),
    [
        (LoopStanding(2), True, Mark.PASSES, []),
        (LoopStanding(3), True, Mark.WOULD_REFUSE, [("loop_detected", "warning")]),
        (LoopStanding(3), False, Mark.FLAGGED, [("loop_detected", "warning")]),
        (LoopStanding(4), False, Mark.FLAGGED, []),
        (LoopStanding(1, growing=1), True, Mark.PASSES, []),
        (LoopStanding(1, growing=2), True, Mark.FLAGGED, [("context_growing", "warning")]),
        (LoopStanding(1, growing=3), True, Mark.FLAGGED, []),
    ],
)
def test_what_a_call_comes_to_that_is_let_through(
    standing: LoopStanding, would_refuse: bool, mark: Mark, events: list[tuple[str, str]]
) -> None:
    """Said once a loop."""
    plan = LoopPlan("loop", "f", 3, 600_000, False, would_refuse, 2, 50)
    assert loop_mark(plan, standing) is mark
    assert loop_events(plan, standing) == events


def test_a_stop_is_said_once() -> None:
    plan = LoopPlan("loop", "f", 3, 600_000, refuses=True)
    stopped = LoopStanding(3, stopped_now=True)
    assert loop_events(plan, stopped) == [("loop_detected", "critical")]
    assert loop_events(plan, LoopStanding(3)) == []


def test_a_context_grows_while_it_is_larger_each_time_with_little_output() -> None:
    assert growing_after(0, 0, 100, 10, PLAN) == 1
    assert growing_after(1, 100, 101, 49, PLAN) == 2
    assert growing_after(2, 101, 101, 49, PLAN) == 1
    assert growing_after(2, 101, 200, 50, PLAN) == 0


def test_the_agent_reads_what_it_did_and_the_way_out() -> None:
    message = loop_message("T", PLAN)
    assert "the same request was made 3 times within 600s" in message
    assert "/admin/v1/tasks/T/resume" in message
