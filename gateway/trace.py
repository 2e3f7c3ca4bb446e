"""What is known of one call while its steps run, and what is told of it: headers and the record."""

from dataclasses import dataclass, field

from gateway.accounting import Charge
from gateway.call import Call, path_label
from gateway.core.admission import Balance, Scope, ScopeKind, Verdict
from gateway.core.budget import Dimension
from gateway.core.budget_comment import BudgetComment
from gateway.core.call_facts import MOST_TEXT, CallOutcome, CrossedLine, Standing
from gateway.core.decision import Decision, Outcome, Receipt
from gateway.core.headers import budget_header_lines
from gateway.core.identity import UNKNOWN, Route, Tags
from gateway.core.keys import GatewayKey
from gateway.core.usage import NO_USAGE, UsageSource
from gateway.planner import Plan
from gateway.ports import CallRecord, Request
from gateway.relay import Carried


@dataclass(slots=True)
class Trace:
    """One call's facts, filled step by step. What a step did not reach stays None.

    `is_counted` tells that its tokens had to be counted, which takes its time.
    """

    call_id: str
    request: Request
    policy_hash: str
    tags: Tags = field(default_factory=Tags)
    route: Route | None = None
    key: GatewayKey | None = None
    call: Call | None = None
    plan: Plan | None = None
    receipt: Receipt | None = None
    decision: Decision | None = None
    relay: Carried | None = None
    charge: Charge = field(default_factory=lambda: Charge(NO_USAGE, UsageSource.NONE))
    tokens: int = 0
    nano_usd: int | None = None
    status: int = 0
    code: str = ""
    passed_over: tuple[str, ...] = ()
    is_call: bool = True
    is_counted: bool = False
    decided_at: float = 0.0
    is_tracked: bool = True

    def attempt(self, call: Call) -> None:
        """Take note that the call is now made so: at this upstream, under this id."""
        self.call, self.call_id, self.route = call, call.call_id, call.route

    @property
    def outcome(self) -> Outcome:
        """Return the decision's outcome; a call that got none was refused."""
        return self.decision.outcome if self.decision else Outcome.REFUSE

    @property
    def phase_name(self) -> str:
        """Return the phase that the call counts for: its own, or the task's current one."""
        phase = self.receipt.phase if self.receipt else self.tags.phase
        if phase is not None:
            return phase
        unknown = any("hase" in invalid.source for invalid in self.tags.invalid)
        return UNKNOWN if unknown else "-"


def head_lines(trace: Trace) -> str:
    """Return the header lines that every answer carries, each ended by CRLF.

    Where nothing is tracked there are none.
    """
    if not trace.is_tracked:
        return ""
    lines = (
        f"x-tollgate-call-id: {trace.call_id}\r\n"
        f"x-tollgate-decision: {trace.outcome}\r\n"
        f"x-tollgate-task: {trace.tags.task or '-'}\r\n"
        f"x-tollgate-phase: {trace.phase_name}\r\n"
        f"x-tollgate-policy: {trace.policy_hash}\r\n"
    )
    if trace.call is not None:
        lines += _call_lines(trace, trace.call)
    if trace.passed_over:
        lines += f"x-tollgate-fallback: {', '.join(trace.passed_over)}\r\n"
    receipt = trace.receipt
    if trace.plan is not None and receipt is None:
        return lines + "x-tollgate-store: unavailable\r\n"
    if receipt is None or not receipt.scopes:
        return lines
    if receipt.grace is not None:
        lines += f"x-tollgate-grace: {receipt.grace}\r\n"
    return lines + budget_header_lines(
        receipt.scopes[0].balances.get(Dimension.TOKENS),
        _phase_balance(receipt),
        0 if trace.relay and not trace.relay.sent else _held_tokens(trace),
        receipt.spent_nano_usd,
    )


def budget_comment(trace: Trace, plan: Plan) -> BudgetComment | None:
    """Return what a stream tells at its end; None without a task, or where its store failed."""
    task, receipt = trace.tags.task, trace.receipt
    if task is None or receipt is None or not receipt.scopes:
        return None
    balance = receipt.scopes[0].balances.get(Dimension.TOKENS)
    if balance is None:
        return None
    weights = plan.reserve.facts.weights
    return BudgetComment(task, trace.phase_name, balance, _held_tokens(trace), weights)


def _call_lines(trace: Trace, call: Call) -> str:
    """Return where the call goes, and what of it was changed."""
    lines = f"x-tollgate-upstream: {call.route.upstream}\r\n"
    if call.model_asked:
        lines += f"x-tollgate-model: {call.model}\r\n"
    if trace.decision is not None and trace.decision.clamp is not None:
        lines += f"x-tollgate-clamp: {trace.decision.clamp}\r\n"
    return lines


def _phase_balance(receipt: Receipt) -> Balance | None:
    last = receipt.scopes[-1]
    return last.balances.get(Dimension.TOKENS) if last.kind is ScopeKind.PHASE else None


def record_of(trace: Trace, tenant: str, now: float) -> CallRecord:
    """Return what the metrics and the log are told."""
    began, relay, call = trace.request.received_at, trace.relay, trace.call
    first = relay.first_byte_at if relay and relay.first_byte_at else now
    facts = trace.plan.reserve.facts if trace.plan else None
    return CallRecord(
        call_id=trace.call_id,
        tenant=tenant,
        key=trace.key.id if trace.key is not None else "-",
        task=trace.tags.task or "-",
        phase=trace.phase_name,
        complexity=facts.complexity if facts else "-",
        importance=facts.importance if facts else "-",
        method=trace.request.method.decode("latin-1"),
        path=path_label(trace.route.target if trace.route else trace.request.target),
        upstream=trace.route.upstream if trace.route else "-",
        dialect=trace.route.dialect if trace.route else "-",
        model=call.asked.model if call and call.asked else "-",
        stream=relay is not None and relay.is_stream,
        status=trace.status,
        outcome=trace.outcome,
        code=trace.code,
        would_refuse=trace.decision is not None and trace.decision.would_refuse,
        breaches=trace.decision.breaches if trace.decision else (),
        usage=trace.charge.usage,
        source=trace.charge.source,
        tokens=trace.tokens,
        nano_usd=trace.nano_usd,
        held_tokens=_held_tokens(trace),
        latency_ms=(now - began) * 1000,
        first_byte_ms=(first - began) * 1000,
        client_left=relay is not None and relay.client_left_early,
        store_failed=trace.plan is not None and trace.receipt is None,
        passed_over=trace.passed_over,
        overhead_ms=(trace.decided_at - began) * 1000 if trace.decided_at else None,
    )


def outcome_of(trace: Trace, now: float) -> CallOutcome:
    """Return what the ledger is told of a call that was let through."""
    began, relay, decision = trace.request.received_at, trace.relay, trace.decision
    first = relay.first_byte_at if relay else 0.0
    task, phase = _first_and_phase(trace.receipt)
    return CallOutcome(
        decision=trace.outcome.value,
        code=trace.code,
        status=trace.status,
        would_refuse=decision is not None and decision.would_refuse,
        usage=trace.charge.usage,
        source=trace.charge.source.value,
        priced=trace.nano_usd is not None,
        model_served=_model_served(trace)[:MOST_TEXT],
        latency_ms=round((now - began) * 1000),
        first_byte_ms=round((first - began) * 1000) if first else None,
        client_left=relay is not None and relay.client_left_early,
        breaches=_crossed(decision) if decision and decision.breaches else (),
        task_tokens=_standing(task, Dimension.TOKENS),
        task_latency=_standing(task, Dimension.LATENCY_MS),
        task_cost=_standing(task, Dimension.NANO_USD),
        phase_tokens=_standing(phase, Dimension.TOKENS),
    )


def _model_served(trace: Trace) -> str:
    """Return the model that answered: by its own word, or the one that was put into the request."""
    if trace.relay is None:
        return ""
    call = trace.call
    swapped = (call.model or "") if call is not None and call.model_asked else ""
    return trace.relay.seen.model or swapped


def _first_and_phase(receipt: Receipt | None) -> tuple[Scope | None, Scope | None]:
    if receipt is None or not receipt.scopes:
        return None, None
    last = receipt.scopes[-1]
    return receipt.scopes[0], last if last.kind is ScopeKind.PHASE else None


def _standing(scope: Scope | None, dimension: Dimension) -> Standing | None:
    balance = scope.balances.get(dimension) if scope else None
    return Standing(balance.settled, balance.held, balance.line) if balance else None


def _crossed(decision: Decision) -> tuple[CrossedLine, ...]:
    return tuple(
        CrossedLine(
            breach.scope.value,
            breach.name,
            breach.dimension.value,
            breach.used,
            breach.allowed,
            breach.line,
        )
        for breach in decision.breaches
    )


def _held_tokens(trace: Trace) -> int:
    receipt = trace.receipt
    return receipt.held_tokens if receipt and receipt.verdict is Verdict.HELD else 0
