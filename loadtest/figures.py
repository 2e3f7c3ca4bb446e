"""What is computed from samples: percentiles, what a hop adds to them, and how sure that is."""

import math
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

_RESAMPLES = 1_000
_CONFIDENCE = 0.95


class Added(NamedTuple):
    """A difference of percentiles with its 95 % confidence interval, in ms."""

    ms: float
    low_ms: float
    high_ms: float


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all are not above. Raises for no values."""
    return _nearest_rank(sorted(values), share)


def _nearest_rank(ordered: Sequence[float], share: float) -> float:
    if not ordered:
        raise ValueError("no values, no percentile")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def added_ms(
    direct: Sequence[Sequence[float]],
    through: Sequence[Sequence[float]],
    share: float,
    rng: Random,
) -> Added:
    """What a hop adds to a percentile; both arms in seconds, by rounds that were measured in pairs.

    The interval is a bootstrap over rounds: what disturbs a machine disturbs a whole round, so
    samples of one are not independent of each other.
    """
    # Sorted now, each resample has only to merge.
    rounds = [(sorted(one), sorted(other)) for one, other in zip(direct, through, strict=True)]

    def difference(chosen: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
        arms = zip(*chosen, strict=True)
        without, with_hop = (percentile([s for one in arm for s in one], share) for arm in arms)
        return (with_hop - without) * 1000

    drawn = sorted(
        difference([rounds[rng.randrange(len(rounds))] for _ in rounds]) for _ in range(_RESAMPLES)
    )
    tail = (1 - _CONFIDENCE) / 2
    return Added(difference(rounds), _nearest_rank(drawn, tail), _nearest_rank(drawn, 1 - tail))


def spread(values: Sequence[float]) -> str:
    """The lowest and highest of several measurements of one thing, for people."""
    return f"{min(values):,.0f}-{max(values):,.0f}" if len(values) > 1 else ""
