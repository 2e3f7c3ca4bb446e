"""Two phases of one task at once (EC10): counted, or, where a policy says so, one at a time."""

from gateway.core.vocabulary import Vocabulary


class ParallelPhases(Vocabulary):
    """What becomes of a call in a phase while another phase of its task has calls in flight."""

    COUNT = "count"
    REFUSE = "refuse"


def parallel_message(task: str, phase: str, other: str) -> str:
    """Return what the agent reads; it may ask again, for it passes by itself."""
    return (
        f"Phase {other} of task {task} has calls that are still open, and its policy lets one "
        f"phase work at a time (parallel_phases: refuse): no call of {phase} starts beside them. "
        "Ask again once they have ended."
    )
