"""Plain integers by name and labels: what a worker counts, and what the supervisor adds up."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import cache

from gateway.telemetry.names import Metric

Key = tuple[str, tuple[str, ...]]


class Counters:
    """Counts and histograms; `take` hands them over and starts from zero."""

    def __init__(self) -> None:
        self._values: dict[Key, int] = {}

    def add(self, metric: Metric, labels: tuple[str, ...] = (), amount: int = 1) -> None:
        """Add to a counter."""
        key = (metric.name, labels)
        self._values[key] = self._values.get(key, 0) + amount

    def observe_ms(self, metric: Metric, labels: tuple[str, ...], value_ms: float) -> None:
        """Add to a histogram: its bucket (not cumulative), its sum and its count."""
        names, values = _histogram_names(metric), self._values
        for name, amount in (
            (names[bisect_left(metric.buckets_ms, value_ms)], 1),
            (names[-2], round(value_ms)),
            (names[-1], 1),
        ):
            key = (name, labels)
            values[key] = values.get(key, 0) + amount

    def take(self) -> list[tuple[str, tuple[str, ...], int]]:
        """Return what was counted since the last time."""
        values, self._values = self._values, {}
        return [(name, labels, amount) for (name, labels), amount in values.items()]

    def merge(self, taken: Iterable[tuple[str, tuple[str, ...], int]]) -> None:
        """Add what another `Counters` handed over."""
        for name, labels, amount in taken:
            key = (name, tuple(labels))
            self._values[key] = self._values.get(key, 0) + amount

    def of(self, name: str) -> Iterator[tuple[tuple[str, ...], int]]:
        """Yield (labels, value) of everything counted under `name`."""
        for (known, labels), amount in self._values.items():
            if known == name:
                yield labels, amount


@cache
def _histogram_names(metric: Metric) -> tuple[str, ...]:
    """Return the names of a histogram's buckets in order, then of its sum and its count."""
    bounds = (*map(str, metric.buckets_ms), "+Inf", "sum", "count")
    return tuple(f"{metric.name}:{bound}" for bound in bounds)
