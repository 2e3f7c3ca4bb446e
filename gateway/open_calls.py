"""Heartbeats of open calls: leases are renewed, and streams end whose task is over its line."""

from collections.abc import Mapping

from gateway.core.mid_stream_stop import stop_message
from gateway.planner import Plan
from gateway.ports import BudgetStore, Recorder, ReservePlan
from gateway.relay import Carried, Relay

_BY_PEOPLE = ("task_killed", "task_blocked")  # these hold in every mode


async def renew_leases(
    calls: Mapping[str, tuple[Plan, Carried]], store: BudgetStore, recorder: Recorder, tenant: str
) -> None:
    """Renew the leases of open calls, by id, raise holds that they outgrew, stop what is over."""
    seen = [_seen_so_far(plan, carried) for plan, carried in calls.values()]
    if not seen:
        return
    over = await store.heartbeat(tenant, seen)
    is_off = store.switch_of(tenant).is_off
    for call_id, code in over.items():
        if call_id in calls and (not is_off or code in _BY_PEOPLE):
            _stop_stream(call_id, *calls[call_id], code, recorder)


def _seen_so_far(plan: Plan, carried: Carried) -> tuple[ReservePlan, int, int]:
    """Return what is known of an open call by now: its plan, tokens and nano-dollars."""
    need, output = plan.reserve.need, carried.seen.output_tokens_seen
    return (
        plan.reserve,
        need.input_high + need.output_tokens(output),
        need.input_nano_usd + need.unit_nano_usd * output,
    )


def _stop_stream(call_id: str, plan: Plan, carried: Carried, code: str, recorder: Recorder) -> None:
    """End a stream whose task is over, if a policy wants that."""
    if not plan.shape.stops_stream or not isinstance(carried, Relay):
        return
    task = plan.reserve.task
    message = stop_message(task, code, has_parents=bool(plan.reserve.facts.parents))
    if carried.stop(code, message):
        recorder.event("stream_stopped", "warning", call_id=call_id, task=task, code=code)
