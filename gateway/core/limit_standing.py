"""How spend limits stand, as the store answered: what was crossed, and what to say of it."""

from collections.abc import Iterator, Sequence

from msgspec import Struct

from gateway.core.admission import Balance, Scope, ScopeKind
from gateway.core.amount_text import NOUNS, format_amount
from gateway.core.budget import Dimension, percent
from gateway.core.spend_limits import SpendLimit
from gateway.core.windows import Span, Window


class LimitStanding(Struct, frozen=True):
    """What the store says of a limit: settled and held before this call, in its window."""

    limit: SpendLimit
    window: Window
    settled: dict[Dimension, int]
    held: dict[Dimension, int]

    @property
    def kind(self) -> ScopeKind:
        """Return whose total it is, as kinds of balances have it."""
        return ScopeKind(self.limit.kind.value)

    @property
    def name(self) -> str:
        """Return whose total it is, and of which window: every window is crossed anew."""
        label = self.window.label
        return f"{self.limit.name}@{label}" if label else self.limit.name

    @property
    def scope(self) -> Scope:
        """Return it as a scope of admission, with its hard lines."""
        balances = {
            dimension: Balance(
                line, 0, line, line, line, self.settled[dimension], self.held[dimension]
            )
            for dimension, line in self.limit.hard.items()
        }
        return Scope(self.kind, self.name, balances)


class Crossing(Struct, frozen=True):
    """A soft or hard line that a settled total is above."""

    standing: LimitStanding
    dimension: Dimension
    line: int
    would_refuse: bool


def crossings(standings: Sequence[LimitStanding]) -> Iterator[Crossing]:
    """Yield the lines that were crossed: of each limit and dimension the highest."""
    for standing in standings:
        limit = standing.limit
        for dimension, settled in standing.settled.items():
            hard, soft = limit.hard.get(dimension), limit.soft.get(dimension)
            if hard is not None and settled > hard:
                yield Crossing(standing, dimension, hard, not limit.enforced)
            elif soft is not None and settled > soft:
                yield Crossing(standing, dimension, soft, would_refuse=False)


def limit_message(standing: LimitStanding, dimension: Dimension, missing: str | None = None) -> str:
    """Return what the agent reads: whose limit, the figures, and when it turns over.

    `missing` tells what a call needs that does not fit into what is left.
    """
    limit, line = standing.limit, standing.limit.hard[dimension]
    used = standing.settled[dimension]
    whose = f"Spend limit {limit.policy} of {limit.kind} {limit.name}"
    span = "for good" if limit.window is Span.LIFETIME else f"for this {limit.window}"
    window = f" ({standing.window.label}, {limit.timezone})" if standing.window.label else ""
    if missing is not None:
        left = format_amount(max(0, line - used - standing.held[dimension]), dimension)
        fact = (
            f"{whose} has {left} left of its {NOUNS[dimension]} budget {span}{window}, "
            f"this call needs {missing}"
        )
    else:
        figures = f"{format_amount(used, dimension)} / {format_amount(line, dimension)}"
        fact = (
            f"{whose} was exceeded {span}{window}: {NOUNS[dimension]} {figures} "
            f"({percent(used, line)}%)"
        )
    ends = standing.window.ends
    turns = f"It turns over at {ends}" if ends else "It does not turn over"
    return f"{fact}. {turns}; retrying before will not help. Ask an operator to raise the limit."
