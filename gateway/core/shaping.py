"""How policies shape a call that they let through: its output, its model, the end of its stream.

What follows from balances is here, the policies themselves in modules of their own.
"""

from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct, structs

from gateway.core.admission import Effects, Need, Scope, ScopeKind, first_stop
from gateway.core.budget import Dimension
from gateway.core.dialects.wire_format import ModelRequest
from gateway.core.match import Subject
from gateway.core.model_downgrade import SoftLine
from gateway.core.phases import Complexity, ImportanceTier
from gateway.core.policy import PolicySet
from gateway.core.policy_base import Effect, Mode, Policy, first_match


class Shape(Struct, frozen=True):
    """What policies in force ask of one call.

    `least_output`: clamp the output, to so much for all choices at least: what the policy leaves,
    what the API takes, what thinking needs; None: do not clamp. `soft_line`: from there on
    serve `cheaper_model` instead. `stops_stream`: cut a stream whose task is over.
    """

    least_output: int | None = None
    soft_line: SoftLine | None = None
    cheaper_model: str = ""
    stops_stream: bool = False


AS_ASKED = Shape()


def shapes_calls(policies: PolicySet) -> bool:
    """Return whether any policy shapes calls."""
    return bool(policies.output_clamp or policies.model_downgrade or policies.mid_stream_stop)


def shape_of(
    policies: PolicySet,
    tiers: tuple[Complexity, ImportanceTier],
    call: Subject,
    asked: ModelRequest,
    mode_of: Callable[[Policy], Mode],
) -> Shape:
    """Return how a call of a task with these tiers is shaped; `mode_of` knows the kill switches."""
    clamp = first_match(policies.output_clamp, *tiers, call)
    downgrade = first_match(policies.model_downgrade, *tiers, call)
    stop = first_match(policies.mid_stream_stop, *tiers, call)
    cheaper = ""
    if downgrade is not None and mode_of(downgrade) is Mode.ENFORCE:
        cheaper = downgrade.cheaper_than(call.models)
    return Shape(
        least_output=max(clamp.min_tokens, asked.least_limit * asked.choices)
        if clamp is not None and mode_of(clamp) is Mode.ENFORCE
        else None,
        soft_line=downgrade.soft_line if downgrade is not None and cheaper else None,
        cheaper_model=cheaper,
        stops_stream=stop is not None and mode_of(stop) is Mode.ENFORCE,
    )


# The output that is affordable --------------------------------------------------------------------


def affordable_output(
    scopes: Sequence[Scope], effects: Effects, need: Need, ceiling: int, least: int
) -> int | None:
    """Return the output tokens that every refusing line pays for, `least` at least.

    None if they pay for the whole `ceiling`. Balances are those before the call; `need` says what
    its input takes of them.
    """
    output = max(least, min([ceiling, *_affordable(scopes, effects, need)]))
    return output if output < ceiling else None


def _affordable(scopes: Sequence[Scope], effects: Effects, need: Need) -> Iterator[int]:
    """Yield what each line leaves for output."""
    for scope in scopes:
        for dimension, balance in scope.balances.items():
            if effects.of(scope.kind, dimension) is not Effect.REFUSE:
                continue
            if dimension is Dimension.TOKENS and need.output_weight > 0:
                yield (balance.room - need.input_high) * 1000 // need.output_weight
            elif dimension is Dimension.NANO_USD and need.unit_nano_usd > 0:
                yield (balance.room - need.input_nano_usd) // need.unit_nano_usd


# The soft line ------------------------------------------------------------------------------------


def over_soft_line(scopes: Sequence[Scope], line: SoftLine) -> bool:
    """Return whether what is settled has reached a soft line; where no limit is, nothing has.

    Specifies that part of `store/lua/reserve.lua`.
    """
    kind = ScopeKind.PHASE if line.of_phase else ScopeKind.TASK
    scope = next((scope for scope in scopes if scope.kind is kind), None)
    balance = scope.balances.get(line.dimension) if scope else None
    if balance is None or balance.settled <= 0:
        return False
    return balance.settled * 100 >= balance.allowed * line.percent


# The end of a stream ------------------------------------------------------------------------------


def stop_code(scopes: Sequence[Scope], effects: Effects, tokens: int, nano_usd: int) -> str:
    """Return why an open call's tasks would refuse it by now, '' if they would not.

    `scopes` may have the spend limits in enforce mode that the call counts in. `tokens` and
    `nano_usd` were seen of the call itself and count as settled. Phases, latency and the number of
    calls stop no stream. Specifies that part of `store/lua/heartbeat.lua`.
    """
    seen = {Dimension.TOKENS: tokens, Dimension.NANO_USD: nano_usd}
    tasks = [_with(scope, seen) for scope in scopes if scope.kind is not ScopeKind.PHASE]
    watched = Effects({d: effect for d, effect in effects.task.items() if d in seen}, {})
    stopped = first_stop(tasks, watched)
    return stopped.code if stopped is not None else ""


def _with(scope: Scope, seen: dict[Dimension, int]) -> Scope:
    balances = {
        d: structs.replace(balance, settled=balance.settled + seen.get(d, 0))
        for d, balance in scope.balances.items()
        if d in seen or scope.kind in (ScopeKind.TASK, ScopeKind.PARENT)
    }
    return structs.replace(scope, balances=balances)
