"""`POST /admin/v1/tasks/{id}/overrides`: put other limits in force, by whom and why on record."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal

from aiohttp import web

from gateway.admin.answers import ApiError, json_answer, store_wait
from gateway.admin.auth import own_role, own_token
from gateway.admin.bodies import OverrideAppliedBody
from gateway.admin.body import read_json
from gateway.admin.override_requests import parse_override, to_override
from gateway.admin.parts import PARTS
from gateway.admin.tasks import read_back, task_id_of
from gateway.admin.views import amount_text, dimension_name, override_body, task_body, usd
from gateway.core.budget import (
    NANO_USD_PER_USD,
    Amounts,
    BreachStatus,
    Dimension,
    PhaseBudget,
    TaskLimits,
    ceil_product,
    multiply,
)
from gateway.core.override_bounds import CODE, Excess, binding, excess
from gateway.core.overrides import Override, OverrideKind
from gateway.core.policy_base import Mode
from gateway.store.limits import NotEnoughRoom, apply_override, server_ms
from gateway.store.task_view import StopState, TaskView

_CREATED = 201


async def post_override(request: web.Request) -> web.Response:
    """Apply an override; it holds with the next call on every gateway."""
    task_id, asked = task_id_of(request), parse_override(await read_json(request))
    parts = request.app[PARTS]
    async with store_wait(request):
        now_ms = await server_ms(parts.connection)
        override = replace(to_override(asked, now_ms), token=own_token(request))
        bounds = Bounds(request, task_id)
        try:
            await apply_override(
                parts.connection, parts.names, task_id, override, check=bounds.check
            )
        except NotEnoughRoom as error:
            raise _not_enough_room(task_id, override, error) from None
    parts.event("override_applied", "info", **_event_fields(task_id, override))
    view = await read_back(request, task_id)
    return json_answer(
        OverrideAppliedBody(
            override=override_body(override, now_ms),
            warnings=[*bounds.warnings, *_warnings(override, view)],
            task=task_body(view) if view else None,
        ),
        _CREATED,
    )


class Bounds:
    """Holds an override to the policies of kind `override_bounds`; notes what only observes."""

    def __init__(self, request: web.Request, task_id: str) -> None:
        self._role = own_role(request).value
        self._policies = request.app[PARTS].rules().policies.override_bounds
        self._task = task_id
        self.warnings: list[str] = []

    def check(self, snapshot: TaskLimits, in_force: Sequence[Override], override: Override) -> None:
        """Raise ApiError (`override_out_of_bounds`) for an override that goes too far."""
        policy = binding(self._policies, snapshot.profile, self._task, self._role)
        if policy is None:
            return
        found = excess(policy, snapshot, in_force, override)
        if found is None:
            return
        message = _beyond(found, policy.name)
        if policy.mode is Mode.OBSERVE:
            self.warnings = [message]
            return
        field = dimension_name(found.dimension) if found.dimension else found.field
        raise ApiError(
            422,
            CODE,
            f"{message} Nothing was changed. Remedy: ask for less, or have it done with a token "
            "that the policy exempts.",
            field=field,
            policy=policy.name,
        )


def _beyond(found: Excess, policy: str) -> str:
    if found.dimension is not None:
        asked, most = (
            amount_text(int(amount or 0), found.dimension) for amount in (found.asked, found.most)
        )
        of = f", {found.percent}% of the limit at the task's start"
    else:
        asked, most, of = "no end" if found.asked is None else str(found.asked), str(found.most), ""
    field = dimension_name(found.dimension) if found.dimension else found.field
    return f"{field}: {asked} is beyond the bound of policy {policy}: at most {most}{of}."


def _not_enough_room(task_id: str, override: Override, error: NotEnoughRoom) -> ApiError:
    dimension, missing = error.dimension, error.missing
    enough = (override.amounts.get(dimension) or 0) + missing
    return ApiError(
        422,
        "not_enough_room",
        f"The grant leaves task {task_id} {amount_text(missing, dimension)} above its line; "
        f"nothing was changed. Remedy: grant at least {amount_text(enough, dimension)}.",
        field=dimension_name(dimension),
        dimension=dimension_name(dimension),
        missing=usd(missing) if dimension is Dimension.NANO_USD else missing,
    )


def _event_fields(task_id: str, override: Override) -> dict[str, object]:
    """Return what the log keeps of an override (SL-12); of what it does, only what is set."""
    amounts = override.amounts
    does = {
        "phase": override.phase.value if override.phase else None,
        "factor": override.factor,
        **{dimension.value: amount for dimension, amount in amounts.items()},
        "expires_ms": override.expires_ms,
    }
    return {
        "task": task_id,
        "kind": override.kind.value,
        "approver": override.approver,
        "reason": " ".join(override.reason.split()),  # one line, whatever form the log has
        **{name: value for name, value in does.items() if value is not None},
    }


# Warnings -----------------------------------------------------------------------------------------


def _warnings(override: Override, view: TaskView | None) -> Iterator[str]:
    """Yield what the approver should know: applied all the same, but perhaps not as meant."""
    if view is None:
        yield "The override is in force, but the store did not give the task's new view."
        return
    if override.phase is not None:
        yield from below_calculated(view.snapshot.budgets[override.phase], override.amounts)
    if override.kind is OverrideKind.GRANT:
        yield from _without_limit(override.amounts, view)
    for dimension, standing in view.summary.totals.items():
        if standing.status is BreachStatus.EXCEEDED and standing.line is not None:
            yield (
                f"The task is above its {dimension_name(dimension)} line: "
                f"{amount_text(standing.used, dimension)} of "
                f"{amount_text(standing.line, dimension)}. Where the policy enforces it, calls are "
                f"still refused. Remedy: a grant of at least "
                f"{amount_text(standing.used - standing.line, dimension)}."
            )
    state = view.summary.stop_loss.state
    if state in (StopState.KILLED, StopState.BLOCKED):
        yield f"The task is {state.value}: an override does not change that."


def below_calculated(budget: PhaseBudget, amounts: Amounts) -> Iterator[str]:
    """Yield a warning for each limit that is lower than what was calculated (EC4)."""
    factor, cost = budget.multipliers.product, budget.base.cost_usd
    base_nano = None if cost is None else multiply(cost, Decimal(NANO_USD_PER_USD))
    calculated = Amounts(
        tokens=ceil_product(budget.base.tokens, factor),
        latency_ms=ceil_product(budget.base.latency_ms, factor),
        nano_usd=None if base_nano is None else ceil_product(base_nano, factor),
    )
    for dimension, amount in amounts.items():
        usual = calculated.get(dimension)
        if amount is not None and usual is not None and amount < usual:
            yield (
                f"{dimension_name(dimension)}: {amount_text(amount, dimension)} is below the "
                f"calculated limit of {budget.phase.value}, {amount_text(usual, dimension)}."
            )


def _without_limit(amounts: Amounts, view: TaskView) -> Iterator[str]:
    for dimension, amount in amounts.items():
        if amount is not None and view.summary.totals[dimension].limit is None:
            yield (
                f"The task has no {dimension_name(dimension)} limit: the grant has no effect "
                "until it has one."
            )
