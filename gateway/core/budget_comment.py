"""What is left of a task, as a comment behind the last event of a stream (GW-8)."""

from msgspec import Struct

from gateway.core.admission import Balance
from gateway.core.budget import TokenWeights, breach_status
from gateway.core.usage import Usage


class BudgetComment(Struct, frozen=True):
    """A task's token budget as it was before a call that holds `held_tokens` of it."""

    task: str
    phase: str
    balance: Balance
    held_tokens: int
    weights: TokenWeights

    def line(self, usage: Usage | None) -> bytes:
        """Return the comment behind the last event; without a blank line, it is no event itself.

        This call is counted in: as the provider reported it, without a report as it was held.
        """
        own = self.held_tokens if usage is None else usage.budget_tokens(self.weights)
        balance = self.balance
        used, allowed = balance.settled + own, balance.allowed
        return (
            f": tollgate task={self.task} phase={self.phase} used={used} limit={allowed} "
            f"remaining={max(0, allowed - used - balance.held)} "
            f"status={breach_status(used, allowed, balance.cumulative)}\n"
        ).encode()
