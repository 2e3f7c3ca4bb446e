"""May a task leave a phase? The question of admission, asked without a call."""

from gateway.core.phases import WorkPhase
from gateway.core.policy import Mode, Policy, StopLossPolicy


def gate_starts_at(
    policy: StopLossPolicy, leaving: WorkPhase, to: WorkPhase | None
) -> WorkPhase | None:
    """Return the first phase that is held to the cumulative line, for a gate out of `leaving`.

    A gate into `to` is held to what the calls there will be (G-16: on entry and on exit). None
    holds every phase to it.
    """
    start = policy.enforce_from
    if start is None or to is None or to.order < start.order:
        return start
    return None


def mode_in_force(policy: Policy, *, switched_off: bool) -> Mode:
    """Return a policy's mode; a kill switch turns enforcing into observing (RBK-2)."""
    return Mode.OBSERVE if switched_off and policy.mode is Mode.ENFORCE else policy.mode
