"""Reserve's reply, read as a receipt. Its layout is documented in `lua/reserve.lua`."""

from collections.abc import Callable
from itertools import repeat
from typing import Any

from gateway.core.admission import Balance, Scope, ScopeKind, Verdict
from gateway.core.budget import Dimension
from gateway.core.decision import Receipt
from gateway.core.grace import Grace
from gateway.core.limit_standing import LimitStanding
from gateway.core.loops import LoopStanding
from gateway.core.phases import WorkPhase
from gateway.core.spend_limits import SpendLimit
from gateway.core.velocity import RATED, RateStanding
from gateway.ports import ReservePlan

Standing = Callable[[SpendLimit, list[Any], int], LimitStanding]

_DIMENSIONS = tuple(Dimension)
_PHASES: dict[str, WorkPhase] = {phase: phase for phase in WorkPhase}
_VERDICTS: dict[str, Verdict] = {verdict: verdict for verdict in Verdict}
# Places in reserve's reply (`lua/reserve.lua`): before the scopes, before a scope's balances, and
# per dimension of a task's scope.
_HEAD, _SCOPE_HEAD, _PER_DIMENSION = 17, 4, 6
_SPENT_NANO_USD = _SCOPE_HEAD + 2 * _PER_DIMENSION + 4


def read_receipt(plan: ReservePlan, reply: list[Any], standing: Standing) -> Receipt:
    """Return reserve's reply as a receipt. `standing` reads a spend limit's part of it."""
    phase, place, now_ms = _PHASES.get(reply[2]), int(reply[7]), int(reply[1])
    runaway_only, exempt = reply[11] == "R", reply[11] == "L"
    raw_scopes = reply[_HEAD:]
    names = (plan.task, *plan.facts.parents)
    scopes = [
        _task_scope(ScopeKind.PARENT, names[at], raw, runaway_only)
        if at
        else _task_scope(ScopeKind.TASK, names[at], raw, runaway_only, exempt=exempt)
        for at, raw in enumerate(raw_scopes[: len(names)])
    ]
    if phase is not None:
        scopes.append(_phase_scope(phase, raw_scopes[-1]))
    limits: tuple[LimitStanding, ...] = ()
    stop_limit, stop_place = None, place
    if plan.spend:
        raw_limits = raw_scopes[len(names) : len(names) + len(plan.spend)]
        limits = tuple(map(standing, plan.spend, raw_limits, repeat(now_ms)))
        stop_place, stop_limit = _stopped_at(place, len(names), limits)
    task = raw_scopes[0]
    stopped_task = raw_scopes[place - 1] if 0 < place <= len(names) else task
    stop_scope = scopes[stop_place - 1] if stop_place else None
    return Receipt(
        verdict=_VERDICTS[reply[0]],
        now_ms=now_ms,
        scopes=tuple(scopes),
        phase=phase,
        execution=int(reply[3]),
        held_tokens=int(reply[4]),
        held_nano_usd=int(reply[5]),
        output=int(reply[6]),
        spent_nano_usd=int(task[_SPENT_NANO_USD] or 0),
        stop_scope=stop_limit.scope if stop_limit else stop_scope,
        stop_dimension=Dimension(reply[8]) if reply[8] else None,
        stop_code=reply[9],
        tripped_now=reply[10] == 1,
        episode=int(stopped_task[3] or 0),
        limits=limits,
        stop_limit=stop_limit,
        loop=_loop_standing(reply[12]) if reply[12] else None,
        grace=Grace(reply[13]) if reply[13] else None,
        rate=_rate_standing(plan, reply[14]),
        parallel_phase=_PHASES.get(reply[15]),
        unended_phase=_PHASES.get(reply[16]),
    )


def _stopped_at(
    place: int, tasks: int, limits: tuple[LimitStanding, ...]
) -> tuple[int, LimitStanding | None]:
    """Return a place among tasks and phase, or 0 and the limit that it is of."""
    if place <= tasks:
        return place, None
    if place <= tasks + len(limits):
        return 0, limits[place - tasks - 1]
    return place - len(limits), None


def _rate_standing(plan: ReservePlan, used: Any) -> RateStanding | None:
    if plan.rate is None or not used:
        return None
    return RateStanding(plan.rate, dict(zip(RATED, map(int, used), strict=True)))


def _loop_standing(raw: list[Any]) -> LoopStanding:
    repeats, stopped_now, growing = map(int, raw)
    return LoopStanding(repeats, stopped_now == 1, growing)


def _task_scope(
    kind: ScopeKind, name: str, raw: list[Any], runaway_only: bool, *, exempt: bool = False
) -> Scope:
    balances = {}
    for at, dimension in enumerate(_DIMENSIONS):
        start = _SCOPE_HEAD + at * _PER_DIMENSION
        if raw[start] is not None:
            limit, granted, cumulative, runaway, settled, held = [
                int(value) if value else 0 for value in raw[start : start + _PER_DIMENSION]
            ]
            balances[dimension] = Balance(
                limit,
                granted,
                runaway if runaway_only or exempt else cumulative,
                cumulative,
                runaway,
                settled,
                held,
            )
    trip = Dimension(raw[1]) if raw[1] else None
    return Scope(kind, name, balances, raw[0] or "open", trip, raw[2] or "", exempt)


def _phase_scope(name: str, raw: list[Any]) -> Scope:
    balances = {}
    for at, dimension in enumerate(_DIMENSIONS):
        limit, line, settled, held = raw[at * 4 : at * 4 + 4]
        if limit is not None:
            line = int(line or 0)
            balances[dimension] = Balance(
                int(limit), 0, line, line, line, int(settled or 0), int(held or 0)
            )
    return Scope(ScopeKind.PHASE, name, balances)
