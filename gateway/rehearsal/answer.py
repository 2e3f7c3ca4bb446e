"""What the store would answer to a reserve, by the core's specifications of its scripts.

The order in which they are asked is that of `store/lua/reserve.lua`; a store test holds both to the
same answers. A case's input is exactly known, so that nothing is ever to be counted.
"""

from msgspec import Struct, structs

from gateway.core.admission import Admission, Scope, ScopeKind, Verdict, admit, first_stop
from gateway.core.decision import Receipt
from gateway.core.grace import Grace, GracePlan, graced_output
from gateway.core.limit_standing import LimitStanding
from gateway.core.loops import CODE, LoopStanding
from gateway.core.phases import WorkPhase
from gateway.core.shaping import over_soft_line
from gateway.core.velocity import RateStanding
from gateway.ports import ReservePlan


class Standing(Struct, frozen=True):
    """How everything stands before a call. `tasks` are the task and its ancestors.

    `loop` is None where no loop is looked for. `loop_stopped`: a loop has stopped the task before.
    `working` is another phase of the task that has calls in flight.
    """

    tasks: tuple[Scope, ...]
    phase: Scope | None = None
    limits: tuple[LimitStanding, ...] = ()
    rate: RateStanding | None = None
    loop: LoopStanding | None = None
    loop_stopped: bool = False
    grace_used: bool = False
    working: WorkPhase | None = None

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """Return what a receipt shows: the tasks, then the phase."""
        return (*self.tasks, self.phase) if self.phase is not None else self.tasks

    @property
    def refusing(self) -> tuple[Scope, ...]:
        """Return what a call is held to: the tasks, spend limits that are enforced, the phase."""
        limits = (one.scope for one in self.limits if one.limit.enforced)
        return (*self.tasks, *limits, *self.scopes[len(self.tasks) :])


def answer(plan: ReservePlan, standing: Standing, now_ms: int) -> Receipt:
    """Return the receipt that a plan would get."""
    scopes, need, grace = standing.refusing, plan.need, None
    stopped = (
        first_stop(scopes, plan.effects)
        or _in_circles(plan, standing)
        or _too_fast(standing, scopes[0])
    )
    if stopped is not None and plan.grace is not None and _has_grace(stopped, standing):
        grace, output = _asked_for_grace(plan.grace, plan, standing)
        if grace is Grace.ADMITTED:
            need = structs.replace(need, output=output, output_min=plan.grace.least)
            scopes = _without(scopes, stopped)
            stopped = first_stop(scopes, plan.effects) or _too_fast(standing, scopes[0])
    if stopped is None:
        is_soft = plan.soft_line is not None and over_soft_line(standing.scopes, plan.soft_line)
        if is_soft and grace is not Grace.ADMITTED:
            stopped = Admission(Verdict.SOFT)
        else:
            waits = plan.one_phase and standing.phase is not None and standing.working is not None
            stopped = admit(scopes, plan.effects, plan.kind, need, parallel=waits)
    if grace is Grace.ADMITTED and stopped.verdict is not Verdict.HELD:
        grace = None  # something else stops the call: the grace is left for another one
    return _receipt(plan, standing, stopped, grace, now_ms)


def _in_circles(plan: ReservePlan, standing: Standing) -> Admission | None:
    loop = standing.loop
    if plan.loop is None or loop is None or not plan.loop.refuses:
        return None
    if standing.loop_stopped or loop.repeats >= plan.loop.calls:
        return Admission(Verdict.REFUSED, standing.tasks[0], code=CODE)
    return None


def _too_fast(standing: Standing, task: Scope) -> Admission | None:
    rate = standing.rate
    if rate is None or not rate.plan.refuses or rate.crossed is None:
        return None
    return Admission(Verdict.REFUSED, task, rate.crossed, "velocity_exceeded")


def _has_grace(stopped: Admission, standing: Standing) -> bool:
    """Return whether there is grace for a stop: for a trip that was set before, or a loop."""
    if stopped.code == CODE:
        return standing.loop_stopped
    scope, dimension = stopped.scope, stopped.dimension
    return scope is not None and dimension is not None and scope.trip_dimension is dimension


def _asked_for_grace(grace: GracePlan, plan: ReservePlan, standing: Standing) -> tuple[Grace, int]:
    if standing.grace_used:
        return Grace.USED, 0
    if not grace.asked:
        return Grace.OFFERED, 0
    output = graced_output(grace, plan.need.input_high, plan.need.output_weight)
    return (Grace.SHORT, 0) if output is None else (Grace.ADMITTED, output)


def _without(scopes: tuple[Scope, ...], stopped: Admission) -> tuple[Scope, ...]:
    """Return the scopes without the balances of the one whose stop a call passes by grace."""
    if stopped.code == CODE:
        return scopes
    return tuple(
        structs.replace(scope, balances={}) if scope is stopped.scope else scope for scope in scopes
    )


def _receipt(
    plan: ReservePlan, standing: Standing, found: Admission, grace: Grace | None, now_ms: int
) -> Receipt:
    name = found.scope.name if found.scope is not None else ""
    kind = found.scope.kind if found.scope is not None else ScopeKind.TASK
    limits = (one for one in standing.limits if (one.kind, one.name) == (kind, name))
    return Receipt(
        found.verdict,
        now_ms,
        standing.scopes,
        phase=plan.phase,
        held_tokens=plan.need.input_high + plan.need.output_tokens(found.output),
        output=found.output,
        stop_scope=found.scope,
        stop_dimension=found.dimension,
        stop_code=found.code,
        loop=standing.loop,
        grace=grace,
        limits=standing.limits,
        stop_limit=next(limits, None),
        rate=standing.rate,
        parallel_phase=standing.working if plan.one_phase else None,
    )
