"""Policies of kind `mid_stream_stop`: streams end when their task goes over its line.

Over is what a line of a task or a spend limit refuses. Whether it is over is told by the heartbeat
of its open calls (`shaping.stop_code`). Without such a policy no stream is ever cut (EC6).
"""

from dataclasses import dataclass

from gateway.core.policy_base import Policy
from gateway.core.stop_words import STATES, way_out

_SPEND = "spend_limit_exceeded"
_STOPPED = {
    **STATES,
    _SPEND: "is held to a spend limit that was exceeded while this answer was on its way",
}


@dataclass(frozen=True, slots=True)
class MidStreamStopPolicy(Policy):
    """A policy of kind `mid_stream_stop`: it says for which calls, and in which mode."""

    name: str = "mid-stream-stop"


def stop_message(task: str, code: str, *, has_parents: bool) -> str:
    """Return what an agent reads at the end of a stream that was stopped."""
    owner = f"Task {task}"
    if has_parents and code != _SPEND:
        owner += ", or a task above it,"
    why = _STOPPED.get(code, "exceeded its budget while this answer was on its way")
    raised = "Finish the task, or ask an operator to raise the limit."
    hint = raised if code == _SPEND else way_out(task, code)
    return f"{owner} {why}: the rest of the answer was cut off. Retrying will not help. {hint}"
