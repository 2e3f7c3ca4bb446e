"""May a task leave a phase? The question of admission, asked without a call."""

from dataclasses import dataclass

from gateway.core.match import DEFAULT_TENANT, Payer
from gateway.core.phases import WorkPhase
from gateway.core.policy import StopLossPolicy


@dataclass(frozen=True, slots=True)
class Gate:
    """A gate out of a phase, as policies look at it: a `Subject` like a call in that phase.

    `to` is the phase to enter, None if nobody said. `key` is the gateway key that pays for the
    task's calls. It asks for no model, so what is for certain models does not hold.
    """

    task: str
    phase: WorkPhase
    to: WorkPhase | None = None
    key: Payer | None = None
    tenant: str = DEFAULT_TENANT
    models: tuple[str | None, ...] = ()

    @property
    def tags(self) -> "Gate":
        """Return what is said of it: itself."""
        return self

    def starts_at(self, policy: StopLossPolicy) -> WorkPhase | None:
        """Return the first phase that is held to the cumulative line, None if all are.

        A gate into `to` is held to what the calls there will be (G-16: on entry and on exit).
        """
        start = policy.enforce_from
        if start is None or self.to is None or self.to.order < start.order:
            return start
        return None
