"""`POST /admin/v1/policies/dry-run`: what a call would be told now. Nothing is held or counted.

The rules are those of admission (`core/admission.py`) on the task's balances as they are shown.
What depends on a call's content is left out: loops, a grace call, a model that has no price.
"""

from typing import Annotated, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from gateway.admin.act_requests import parse_request
from gateway.admin.answers import json_answer, store_wait
from gateway.admin.bodies import Body, BreachBody
from gateway.admin.body import read_json
from gateway.admin.override_requests import Phase
from gateway.admin.parts import PARTS, AdminParts
from gateway.admin.registration_requests import ComplexityTier, Importance, TaskId
from gateway.admin.views import breach_body
from gateway.core.admission import Balance, Need, Scope, ScopeKind, admit, is_held_to_line
from gateway.core.budget import Lines, TaskProfile, task_limits
from gateway.core.decision import Decision, Receipt, decide, effects_of
from gateway.core.gate import mode_in_force
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.policy import Mode, StopLossPolicy
from gateway.store.enforcement import read_switch
from gateway.store.limits import UnknownTask, server_ms
from gateway.store.task_view import Standing, Standings, StopLossState, StopState, TaskView
from gateway.store.tasks import read_task

_MOST_TOKENS = 100_000_000
Tokens = Annotated[int, Field(ge=0, le=_MOST_TOKENS)]
_NO_STOP = StopLossState(StopState.OK)


class DryRunRequest(BaseModel):
    """A call. Tiers are for a task that is not there yet; `model` gives the price of its tokens."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True, strict=True)

    task: TaskId
    phase: Phase | None = None
    complexity: ComplexityTier = Complexity.MEDIUM
    importance: Importance = ImportanceTier.MEDIUM
    model: Annotated[str, Field(max_length=256)] | None = None
    input_tokens: Tokens = 0
    output_tokens: Tokens = 0


class DryRunBody(Body):
    """The decision that the call would get. `clamp` is the output that its budget would pay for."""

    task: str
    phase: str | None
    task_exists: bool
    decision: Literal["allow", "flag", "refuse"]
    would_refuse: bool
    code: str | None
    message: str | None
    retryable: bool
    clamp: int | None
    policy: str
    mode: Literal["off", "observe", "enforce"]
    policy_hash: str
    breaches: list[BreachBody]


async def post_dry_run(request: web.Request) -> web.Response:
    """Decide as for a call, on balances as they are."""
    asked, parts = parse_request(DryRunRequest, await read_json(request)), request.app[PARTS]
    async with store_wait(request):
        now_ms = await server_ms(parts.connection)
        views = await _views(parts, asked.task)
        switch = await read_switch(parts.connection, parts.names)
    rules = parts.rules()
    complexity, importance = asked.complexity, asked.importance
    phase = asked.phase
    if views:
        facts = views[0].summary.facts
        complexity, importance = facts.complexity, facts.importance
        phase = phase or views[0].summary.current_phase
    policy = rules.policies.stop_loss_for(complexity, importance)
    off = bool(switch) or parts.enforcement_disabled or not rules.budgets.stop_loss.enabled
    mode = mode_in_force(policy, switched_off=off)
    scopes = (
        list(_scopes(views, policy, phase)) if views else _new_scopes(parts, asked, policy, phase)
    )
    decision = _decide(_need(parts, asked), scopes, policy, mode, (now_ms, phase))
    return json_answer(
        DryRunBody(
            task=asked.task,
            phase=phase.value if phase else None,
            task_exists=bool(views),
            decision=decision.outcome.value,
            would_refuse=decision.would_refuse,
            code=decision.code or None,
            message=decision.message or None,
            retryable=decision.retryable,
            clamp=decision.clamp,
            policy=policy.name,
            mode=mode.value,
            policy_hash=rules.policies.policy_hash,
            breaches=[breach_body(breach) for breach in decision.breaches],
        )
    )


async def _views(parts: AdminParts, task: str) -> list[TaskView]:
    """Return the task and its ancestors, nearest first; nothing for a task that is not there."""
    try:
        first = await read_task(parts.connection, parts.names, task)
    except UnknownTask:
        return []
    found = [first]
    for parent in first.summary.facts.parents:
        found.append(await read_task(parts.connection, parts.names, parent))
    return found


def _need(parts: AdminParts, asked: DryRunRequest) -> Need:
    price = parts.rules().prices.find(asked.model) if asked.model else None
    tokens = asked.input_tokens
    return Need(
        input_low=tokens,
        input_high=tokens,
        input_nano_usd=price.input_nano_usd(tokens) if price else 0,
        output=asked.output_tokens,
        output_min=min(asked.output_tokens, 1),
        unit_nano_usd=price.at(tokens).unit_nano_usd if price else 0,
    )


def _decide(
    need: Need,
    scopes: list[Scope],
    policy: StopLossPolicy,
    mode: Mode,
    moment: tuple[int, WorkPhase | None],
) -> Decision:
    """Return the decision on these balances; `moment` is when, and in which phase."""
    admission = admit(scopes, effects_of(policy, mode), policy.reserve, need)
    receipt = Receipt(
        admission.verdict,
        moment[0],
        tuple(scopes),
        phase=moment[1],
        held_tokens=need.input_high + need.output_tokens(admission.output),
        output=admission.output,
        stop_scope=admission.scope,
        stop_dimension=admission.dimension,
        stop_code=admission.code,
    )
    return decide(receipt, policy, mode, need.output)


# Balances -----------------------------------------------------------------------------------------


def _scopes(views: list[TaskView], policy: StopLossPolicy, phase: WorkPhase | None) -> list[Scope]:
    """Return the scopes of a task that is there: its own, its ancestors', the phase's."""
    is_held = is_held_to_line(policy.enforce_from, phase)
    found = [
        _scope(
            ScopeKind.PARENT if place else ScopeKind.TASK,
            view.summary.id,
            view.summary.totals,
            view.summary.stop_loss,
            is_held=is_held,
        )
        for place, view in enumerate(views)
    ]
    if phase is not None:
        standings = views[0].phases[phase].standings
        found.append(_scope(ScopeKind.PHASE, phase.value, standings, _NO_STOP, is_held=True))
    return found


def _new_scopes(
    parts: AdminParts, asked: DryRunRequest, policy: StopLossPolicy, phase: WorkPhase | None
) -> list[Scope]:
    """Return the scopes that a task would begin with."""
    profile = TaskProfile(asked.complexity, asked.importance)
    limits = task_limits(parts.rules().budgets, profile)
    totals = {dimension: _unused(lines) for dimension, lines in limits.task_lines.items()}
    is_held = is_held_to_line(policy.enforce_from, phase)
    found = [_scope(ScopeKind.TASK, asked.task, totals, _NO_STOP, is_held=is_held)]
    if phase is not None:
        lines = limits.phase_lines[phase].items()
        standings = {dimension: _unused(line) for dimension, line in lines}
        found.append(_scope(ScopeKind.PHASE, phase.value, standings, _NO_STOP, is_held=True))
    return found


def _unused(lines: Lines) -> Standing:
    return Standing(lines.limit, 0, lines.cumulative, lines.runaway, 0, 0)


def _scope(
    kind: ScopeKind, name: str, standings: Standings, stop: StopLossState, *, is_held: bool
) -> Scope:
    is_ended = stop.state in (StopState.KILLED, StopState.BLOCKED)
    return Scope(
        kind,
        name,
        {
            dimension: Balance(
                limit=standing.limit,
                granted=standing.granted,
                line=standing.line
                if is_held or standing.runaway_line is None
                else standing.runaway_line,
                cumulative=standing.line,
                runaway=standing.runaway_line or standing.line,
                settled=standing.used,
                held=standing.reserved,
            )
            for dimension, standing in standings.items()
            if standing.limit is not None and standing.line is not None
        },
        state=stop.state.value if is_ended else "open",
        trip_dimension=stop.dimension if stop.state is StopState.TRIPPED else None,
        trip_code=stop.code if stop.state is StopState.TRIPPED else "",
    )
