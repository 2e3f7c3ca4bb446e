"""What comes of one case: planned, admitted and decided as on the data path."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

from msgspec import structs

from gateway.core.admission import Balance, Scope, ScopeKind, Verdict, is_held_to_line
from gateway.core.budget import (
    Dimension,
    Lines,
    StopLoss,
    TaskProfile,
    crossed_levels,
    phase_lines,
    task_limits,
    task_lines,
)
from gateway.core.configuration import DataPlane, Rules, UpstreamSettings
from gateway.core.decision import Decision, Outcome, Receipt
from gateway.core.enforcement import Switch
from gateway.core.estimate import LearnedOutput
from gateway.core.keys import GatewayKey
from gateway.core.limit_standing import LimitStanding
from gateway.core.loops import LoopStanding, repeats_of
from gateway.core.match import DEFAULT_TENANT
from gateway.core.notices import Notice, NoticeKind
from gateway.core.override_bounds import CODE as OUT_OF_BOUNDS
from gateway.core.override_bounds import binding, excess
from gateway.core.overrides import Override, OverrideKind
from gateway.core.policy import Mode, PolicySet
from gateway.core.prices import ModelPrice, PriceTable
from gateway.core.shaping import stop_code
from gateway.core.velocity import RATED, RateStanding
from gateway.core.windows import Window
from gateway.planner import Plan, Planner
from gateway.policy_cases.document import (
    BalancesDocument,
    CallDocument,
    CaseDocument,
    GivenDocument,
    NoticeDocument,
    OverrideDocument,
    WindowDocument,
)
from gateway.ports import TaskFacts
from gateway.rehearsal.answer import Standing, answer
from gateway.rehearsal.trial import CallSaid, Tried, try_call
from gateway.rule_files.budgets import DEFAULT_PHASE_BUDGETS

_NOW_MS = 1_767_225_600_000
_UPSTREAM = "openai"
_THRESHOLDS = StopLoss()
_NO_WINDOW = WindowDocument()
_TRIP_CODE = "task_budget_exceeded"
_TRIPS = (_TRIP_CODE, "runaway_task")


def differences(case: CaseDocument, policies: PolicySet) -> list[str]:
    """Return how what comes of a case differs from what it expects, `key: expected x, got y`."""
    got = _outcome(case, policies)
    keys = [*_always(case), *sorted(case.expect.model_fields_set)]
    expected = {key: _shown(getattr(case.expect, key)) for key in dict.fromkeys(keys)}
    return [
        f"{key}: expected {said}, got {_shown(got.get(key))}"
        for key, said in expected.items()
        if said != _shown(got.get(key))
    ]


def _always(case: CaseDocument) -> tuple[str, ...]:
    return ("posted_to",) if case.notice is not None else ("decision", "would_refuse")


def _shown(value: object) -> str:
    if value is None or value == "":
        return "none"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _outcome(case: CaseDocument, policies: PolicySet) -> dict[str, object]:
    if case.override is not None:
        return _of_override(case.override, policies)
    if case.notice is not None:
        return {"posted_to": _posted_to([case.notice], policies)}
    return _of_call(case.call or CallDocument(), case.given, policies)


# Calls --------------------------------------------------------------------------------------------


def _of_call(asked: CallDocument, given: GivenDocument, policies: PolicySet) -> dict[str, object]:
    upstreams = {_UPSTREAM: UpstreamSettings("https://provider.example", _UPSTREAM)}
    rules = Rules(DEFAULT_PHASE_BUDGETS, policies, _prices(asked, policies))
    switch = Switch("off" if given.switched_off else "")
    planner = Planner(DataPlane("", upstreams=upstreams), rules, LearnedOutput(), switch=switch)
    facts = TaskFacts(asked.complexity, asked.importance, ("PARENT",) if given.parent else ())

    async def ask(plan: Plan) -> Receipt:
        return answer(plan.reserve, _standing(plan, given), _NOW_MS)

    tried = asyncio.run(try_call(_said(asked), facts, planner, ask))
    found = _shape_of(tried.decision)
    if tried.call is None or tried.plan is None or tried.receipt is None:
        return found
    grace, levels = tried.receipt.grace, _levels(tried.receipt, asked.used_tokens)
    return found | {
        "model": tried.call.model,
        "grace": grace.value if grace is not None else None,
        "stream_stop": _stream_stop(tried.plan, given),
        "notices": levels,
        "posted_to": _posted_to(_happened(asked, tried, levels), policies),
    }


def _shape_of(decision: Decision) -> dict[str, object]:
    return {
        "decision": decision.outcome.value,
        "would_refuse": decision.would_refuse,
        "code": decision.code,
        "clamp": decision.clamp,
    }


def _said(asked: CallDocument) -> CallSaid:
    key = asked.key
    payer = GatewayKey(key.id, "", key.name, team=key.team, tenant=key.tenant) if key else None
    return CallSaid(
        asked.task if asked.tagged else None,
        asked.phase,
        asked.complexity,
        asked.importance,
        asked.grace,
        payer,
        asked.model,
        asked.method,
        asked.path,
        asked.input_tokens,
        asked.output_tokens,
        key.tenant if key else DEFAULT_TENANT,
    )


def _prices(asked: CallDocument, policies: PolicySet) -> PriceTable:
    """Return the price of the call's model, and of models that may stand in for it."""
    if not asked.priced:
        return PriceTable()
    each = round(asked.input_usd_per_million * 10**9), round(asked.output_usd_per_million * 10**9)
    price = ModelPrice(each[0], each[1], each[0], each[0])
    stand_ins = (cheaper for policy in policies.model_downgrade for _, cheaper in policy.models)
    return PriceTable(dict.fromkeys((asked.model, *stand_ins), price))


def _levels(receipt: Receipt, used_tokens: int) -> list[str]:
    """Return the notice levels that the call's settlement crosses."""
    balance = receipt.scopes[0].balances.get(Dimension.TOKENS)
    if balance is None:
        return []
    before = balance.settled
    return [str(level) for level in crossed_levels(before, before + used_tokens, balance.allowed)]


def _stream_stop(plan: Plan, given: GivenDocument) -> str:
    """Return why a heartbeat would end the call's stream by now, '' if it would not."""
    if given.stream is None or not plan.shape.stops_stream:
        return ""
    seen = given.stream.amounts()
    return stop_code(
        _standing(plan, given).refusing,
        plan.reserve.effects,
        seen[Dimension.TOKENS],
        seen[Dimension.NANO_USD],
    )


# Balances -----------------------------------------------------------------------------------------


def _standing(plan: Plan, given: GivenDocument) -> Standing:
    """Return what is given as the store would have it."""
    reserve = plan.reserve
    held_to_line = is_held_to_line(reserve.enforce_from, reserve.phase)
    limits = reserve.limits
    task = _scope(
        (ScopeKind.TASK, reserve.task),
        given.task,
        limits.task_lines if limits is not None else {},
        held_to_line=held_to_line,
    )
    tripped = given.tripped
    task = structs.replace(
        task,
        state=given.state,
        trip_dimension=tripped,
        trip_code=_TRIP_CODE if tripped is not None else "",
    )
    parents = [
        _scope((ScopeKind.PARENT, name), given.parent, {}, held_to_line=held_to_line)
        for name in reserve.facts.parents
    ]
    phase = None
    if reserve.phase is not None and limits is not None:
        lines = limits.phase_lines[reserve.phase]
        of_phase = ScopeKind.PHASE, reserve.phase.value
        phase = _scope(of_phase, given.phase, lines, held_to_line=True)
    used = given.velocity.amounts()
    return Standing(
        (task, *parents),
        phase,
        tuple(_window(LimitStanding(limit, Window(), {}, {}), given) for limit in reserve.spend),
        RateStanding(reserve.rate, {d: used[d] for d in RATED}) if reserve.rate else None,
        _loop(plan, given),
        given.loop_stopped,
        given.grace_used,
        given.working,
    )


def _loop(plan: Plan, given: GivenDocument) -> LoopStanding | None:
    loop = plan.reserve.loop
    if loop is None:
        return None
    at_ms = _NOW_MS - given.repeats_s_ago * 1000
    repeats = 0
    if loop.fingerprint:
        earlier = [(at_ms, loop.fingerprint)] * given.repeats
        repeats = repeats_of(loop.fingerprint, earlier, _NOW_MS, loop.window_ms)
    return LoopStanding(repeats, growing=given.growing)


def _window(standing: LimitStanding, given: GivenDocument) -> LimitStanding:
    window = given.windows.get(standing.limit.policy, _NO_WINDOW)
    settled, held = window.settled.amounts(), window.held.amounts()
    return structs.replace(
        standing,
        settled={dimension: settled[dimension] for dimension in RATED},
        held={dimension: held[dimension] for dimension in RATED},
    )


def _scope(
    named: tuple[ScopeKind, str],
    given: BalancesDocument | None,
    at_start: Mapping[Dimension, Lines],
    *,
    held_to_line: bool,
) -> Scope:
    """Return a scope as given, else as it begins; its lines follow from the default thresholds."""
    kind, name = named
    stated = given or BalancesDocument()
    lines = at_start
    if given is not None:
        limits = given.of("limit")
        is_phase = kind is ScopeKind.PHASE
        lines = (phase_lines if is_phase else task_lines)(limits, _THRESHOLDS)
    granted, settled, held = (stated.of(word) for word in ("granted", "settled", "held"))
    balances = {}
    for dimension, line in lines.items():
        more = granted.get(dimension) or 0
        balances[dimension] = Balance(
            line.limit,
            more,
            (line.cumulative if held_to_line else line.runaway) + more,
            line.cumulative + more,
            line.runaway + more,
            settled.get(dimension) or 0,
            held.get(dimension) or 0,
        )
    return Scope(kind, name, balances)


# Overrides and notices ----------------------------------------------------------------------------


def _of_override(asked: OverrideDocument, policies: PolicySet) -> dict[str, object]:
    profile = TaskProfile(asked.complexity, asked.importance)
    policy = binding(policies.override_bounds, profile, asked.task, asked.role)
    new = Override(
        asked.kind,
        "case",
        "case",
        _NOW_MS,
        None if asked.lasting_s is None else _NOW_MS + asked.lasting_s * 1000,
        asked.amounts.stated(),
        asked.phase,
        None if asked.factor is None else Decimal(str(asked.factor)),
    )
    granted = replace(
        new, kind=OverrideKind.GRANT, amounts=asked.granted.stated(), phase=None, factor=None
    )
    limits = task_limits(DEFAULT_PHASE_BUDGETS, profile)
    if policy is None or excess(policy, limits, [granted], new) is None:
        return _shape_of(Decision(Outcome.ALLOW))
    if policy.mode is Mode.OBSERVE:
        return _shape_of(Decision(Outcome.FLAG, would_refuse=True))
    return _shape_of(Decision(Outcome.REFUSE, code=OUT_OF_BOUNDS))


def _happened(asked: CallDocument, tried: Tried, levels: list[str]) -> list[NoticeDocument]:
    """Return what is told of a call: that it tripped its task, and the levels that it crossed."""
    receipt, kinds = tried.receipt, [NoticeKind(level) for level in levels]
    if receipt is not None and _trips(receipt):
        kinds.append(NoticeKind.TRIP)
    return [
        NoticeDocument(
            kind=kind,
            task=asked.task,
            phase=asked.phase,
            complexity=asked.complexity,
            importance=asked.importance,
        )
        for kind in kinds
    ]


def _trips(receipt: Receipt) -> bool:
    """Return whether the task's line was crossed, and has not stopped it before."""
    stop = receipt.stop_scope
    return (
        receipt.verdict is Verdict.REFUSED
        and receipt.stop_code in _TRIPS
        and stop is not None
        and stop.trip_dimension is None
    )


def _posted_to(told: list[NoticeDocument], policies: PolicySet) -> list[str]:
    """Return the policies, in their order, that post any of these notices."""
    return [
        policy.name
        for policy in policies.webhook
        if any(policy.wants(_notice(one), (one.complexity, one.importance)) for one in told)
    ]


def _notice(asked: NoticeDocument) -> Notice:
    facts = {"phase": asked.phase.value} if asked.phase is not None else {}
    return Notice(NoticeKind(asked.kind), "case", asked.tenant, asked.task, _NOW_MS, facts)
