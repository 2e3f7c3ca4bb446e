"""Policies of kind `mid_stream_stop`: streams end when their task goes over its line.

Whether it is over is told by the heartbeat of its open calls (`shaping.stop_code`). Without such a
policy no stream is ever cut (EC6).
"""

from dataclasses import dataclass

from gateway.core.policy_base import Policy

_STOPPED = {
    "task_killed": "was killed by an operator",
    "task_blocked": "is blocked until its registration is corrected",
}


@dataclass(frozen=True, slots=True)
class MidStreamStopPolicy(Policy):
    """A policy of kind `mid_stream_stop`: it says for which calls, and in which mode."""

    name: str = "mid-stream-stop"


def stop_message(task: str, code: str, *, has_parents: bool) -> str:
    """Return what an agent reads at the end of a stream that was stopped."""
    owner = f"Task {task}, or a task above it," if has_parents else f"Task {task}"
    why = _STOPPED.get(code, "exceeded its budget while this answer was on its way")
    return (
        f"{owner} {why}: the rest of the answer was cut off. Retrying will not help. Finish the "
        f"task, or ask an operator for an override (POST /admin/v1/tasks/{task}/overrides)."
    )
