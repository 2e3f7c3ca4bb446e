"""What is told of a call: the lines of its head, and its record."""

import json

import pytest

from gateway.call import read_call
from gateway.core.admission import Balance, Scope, ScopeKind, Verdict
from gateway.core.budget import Dimension
from gateway.core.configuration import DataPlane
from gateway.core.decision import Decision, Outcome, Receipt
from gateway.core.estimate import InputEstimate, LearnedOutput
from gateway.core.identity import identify
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.planner import Planner
from gateway.ports import Request, TaskFacts
from gateway.trace import Trace, head_lines, record_of
from tests.e2e.in_process import rules
from tests.test_relay import JSON, Line

BODY = json.dumps({"model": "m", "messages": []}).encode()
TAGS = [(b"X-Task-Id", b"T"), (b"X-Task-Phase", b"plan")]


def balance(limit: int, settled: int, held: int = 0) -> Balance:
    return Balance(limit, 0, limit * 12 // 10, limit * 12 // 10, limit * 2, settled, held)


TASK = Scope(ScopeKind.TASK, "T", {Dimension.TOKENS: balance(1_000, 400, 100)})
PHASE = Scope(ScopeKind.PHASE, "PLAN", {Dimension.TOKENS: balance(300, 200)})


def receipt(*scopes: Scope, verdict: Verdict = Verdict.HELD) -> Receipt:
    return Receipt(
        verdict=verdict,
        now_ms=1,
        scopes=scopes,
        phase=WorkPhase.PLAN,
        held_tokens=50,
        spent_nano_usd=1_234_567_000,
    )


def trace_of(target: bytes = b"/v1/chat/completions?key=secret", *, planned: bool = True) -> Trace:
    """Return the trace of a call up to its plan."""
    request = Request(b"POST", target, TAGS, BODY, 10.0)
    trace = Trace("c1", request, "hash")
    trace.tags, trace.route = identify(target, request.headers)
    call = trace.call = read_call("c1", request, trace.tags, trace.route)
    if planned and call.asked is not None:
        facts = TaskFacts(Complexity.LARGE, ImportanceTier.LOW)
        planner = Planner(DataPlane("unix:///s"), rules(), LearnedOutput())
        trace.plan = planner.plan(call, call.asked, facts, InputEstimate(1, 2, 3))
    return trace


def lines_of(trace: Trace) -> dict[str, str]:
    text = head_lines(trace)
    assert text.endswith("\r\n")
    return dict(line.split(": ") for line in text.split("\r\n")[:-1])


ALWAYS = {
    "x-tollgate-call-id": "c1",
    "x-tollgate-task": "T",
    "x-tollgate-phase": "PLAN",
    "x-tollgate-policy": "hash",
    "x-tollgate-upstream": "openai",
}


def test_the_lines_of_an_admitted_call() -> None:
    """What is left counts what this call holds."""
    trace = trace_of()
    trace.receipt, trace.decision = receipt(TASK, PHASE), Decision(Outcome.ALLOW)
    assert lines_of(trace) == {
        **ALWAYS,
        "x-tollgate-decision": "allow",
        "x-budget-task-tokens-limit": "1000",
        "x-budget-task-tokens-used": "400",
        "x-budget-task-tokens-remaining": "450",
        "x-budget-task-cost-usd-used": "1.234567",
        "x-budget-status": "within",
        "x-budget-pressure": "40",
        "x-budget-phase-tokens-limit": "300",
        "x-budget-phase-tokens-used": "200",
        "x-budget-phase-tokens-remaining": "50",
    }


@pytest.mark.parametrize("why", ["refused", "never sent"])
async def test_a_call_that_holds_nothing(why: str) -> None:
    """A refused call would have needed something, one that was not sent has given it back."""
    trace = trace_of()
    if why == "refused":
        trace.receipt = receipt(TASK, PHASE, verdict=Verdict.REFUSED)
        trace.decision = Decision(Outcome.REFUSE, code="task_budget_exceeded")
    else:
        trace.receipt, trace.decision = receipt(TASK, PHASE), Decision(Outcome.FLAG)
        trace.relay = Line().relay
    lines = lines_of(trace)
    assert lines["x-budget-task-tokens-remaining"] == "500"
    assert lines["x-tollgate-decision"] == ("refuse" if why == "refused" else "flag")


def test_a_task_without_a_phase() -> None:
    """Has no phase lines."""
    trace = trace_of()
    trace.receipt = receipt(TASK)
    assert not [name for name in lines_of(trace) if "phase-tokens" in name]


def test_without_a_receipt() -> None:
    """Where the store failed it is said; where it was not asked there is nothing to say."""
    assert lines_of(trace_of()) == {
        **ALWAYS,
        "x-tollgate-decision": "refuse",
        "x-tollgate-store": "unavailable",
    }
    assert lines_of(trace_of(planned=False)) == {**ALWAYS, "x-tollgate-decision": "refuse"}
    untagged = Trace("c1", Request(b"GET", b"/x", [], b"", 0.0), "hash")
    untagged.decision = Decision(Outcome.ALLOW)
    no_route = {name: text for name, text in ALWAYS.items() if name != "x-tollgate-upstream"}
    assert lines_of(untagged) == {
        **no_route,
        "x-tollgate-decision": "allow",
        "x-tollgate-task": "-",
        "x-tollgate-phase": "-",
    }
    moved = trace_of(planned=False)
    moved.passed_over = ("openai=429", "azure=upstream_busy")
    assert lines_of(moved)["x-tollgate-fallback"] == "openai=429, azure=upstream_busy"
    empty = trace_of()
    empty.receipt = receipt()
    assert "x-budget-status" not in lines_of(empty)


def test_the_phase_is_the_one_that_the_call_counts_for() -> None:
    """The store knows the task's current one; a phase that nobody knows is UNKNOWN."""
    trace = trace_of()
    trace.receipt = Receipt(Verdict.HELD, 1, phase=WorkPhase.VERIFY)
    assert trace.phase_name == "VERIFY"
    trace = Trace("c1", Request(b"GET", b"/v1/x", [], b"", 0.0), "hash")
    for headers, name in (
        ([(b"X-Task-Phase", b"coding")], "UNKNOWN"),
        ([(b"X-Task-Id", b"/")], "-"),
        ([], "-"),
    ):
        trace.tags, _ = identify(b"/v1/x", headers)
        assert trace.phase_name == name


def test_the_record_of_a_call_that_got_nowhere() -> None:
    """Whatever a step did not reach is a dash or a zero."""
    record = record_of(Trace("c1", Request(b"GET", b"/x?k=s", [], b"", 10.0), "h"), "t", 10.5)
    assert (record.task, record.phase, record.upstream, record.dialect) == ("-", "-", "-", "-")
    assert (record.model, record.complexity, record.path) == ("-", "-", "/x")
    assert (record.latency_ms, record.first_byte_ms) == (500, 500)
    assert (record.status, record.outcome, record.source) == (0, "refuse", "none")
    assert (record.nano_usd, record.held_tokens, record.store_failed) == (None, 0, False)


async def test_the_record_of_a_call_that_was_served() -> None:
    """Tiers are the task's own; the path is the provider's, without its query."""
    trace = trace_of(b"/t/T/plan/v1/chat/completions?key=secret")
    trace.receipt, trace.decision = receipt(TASK, PHASE), Decision(Outcome.FLAG, would_refuse=True)
    line = Line()
    line.follow()
    line.relay.on_head(200, JSON, 2)
    trace.relay, trace.status = line.relay, 200
    record = record_of(trace, "tenant", 12.0)
    assert (record.complexity, record.importance) == ("Large", "low")
    assert (record.path, record.upstream, record.dialect) == (
        "/v1/chat/completions",
        "openai",
        "openai_chat",
    )
    assert (record.latency_ms, record.first_byte_ms) == (2_000, -3_000)  # by the line's own clock
    assert (record.would_refuse, record.held_tokens, record.tenant) == (True, 50, "tenant")
