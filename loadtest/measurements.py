"""What `report` measures, one function each: figures in, no words about them.

Every measurement through the gateway is beside one straight to the provider, in turns, so that what
disturbs the machine disturbs both. Budgets, policy and store are on; no call comes near a limit,
but for the refusals.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from loadtest.figures import Added, added_ms, percentile
from loadtest.generator import Generator, Run, poisson
from loadtest.station import NO_COST, Cost, Station
from loadtest.traffic import DIRECT, TASKS, THROUGH, chat_body, chat_requests

CONCURRENCY = 32
OPEN_RATE = 300.0
STREAMS = 64
CHUNKS = 200
CHUNK_DELAY_MS = 5
LARGE_BYTES = 300_000
_SMALL_BYTES = 1_024
_READY = 16  # connections of the open loop before its first moment
_WARM_UP_S = 1.0
_SPENT_TOKENS = 60_000
_STREAM_HEADERS = {
    "x-fake-completion-tokens": str(CHUNKS),
    "x-fake-chunk-delay-ms": str(CHUNK_DELAY_MS),
}
REFUSED = 400


@dataclass(frozen=True)
class Scale:
    """How long a measurement lasts: `slices` of `seconds` each; `rounds` of the open loop."""

    seconds: float = 4.0
    slices: int = 3
    rounds: int = 7


@dataclass
class Closed:
    """Calls one after another on each connection: what a core carries, and what a call costs."""

    calls_per_s: list[float] = field(default_factory=list)
    direct_per_s: list[float] = field(default_factory=list)
    worker_us: list[float] = field(default_factory=list)
    cost: Cost = NO_COST
    calls: int = 0
    problems: list[str] = field(default_factory=list)

    def note(self, run: Run, cost: Cost, expected_status: int = 200) -> None:
        """Take in a run through the gateway."""
        self.calls_per_s.append(run.achieved_per_s)
        self.worker_us.append(cost.per(len(run.samples)).worker_us)
        self.cost += cost
        self.calls += len(run.samples)
        self.problems += run.problems(expected_status)

    @property
    def per_call(self) -> Cost:
        """CPU time of a call."""
        return self.cost.per(self.calls)


@dataclass(frozen=True)
class Compared:
    """A percentile of both arms, and the difference."""

    direct_ms: float
    through_ms: float
    added: Added


@dataclass(frozen=True)
class Open:
    """Calls at a fixed rate: what the gateway adds."""

    p50: Compared
    p99: Compared
    lag_p99_ms: float
    offered_per_s: float
    achieved_per_s: float
    rounds: int
    problems: list[str]


@dataclass(frozen=True)
class Streams:
    """Streams side by side: the cost of a chunk, and the wait for the first."""

    chunk: Cost
    chunks: int
    chunks_per_s: float
    first_p50: Compared
    first_p99: Compared
    gap_p99_direct_ms: float
    gap_p99_through_ms: float
    problems: list[str]


@dataclass(frozen=True)
class Refusals:
    """Refused calls; `upstream_requests` is what reached the provider meanwhile."""

    closed: Closed
    upstream_requests: int


@dataclass(frozen=True)
class Figures:
    """Everything that is measured."""

    plain: Closed
    open: Open
    streams: Streams
    large: Closed
    tls: Closed
    refusals: Refusals
    peak_rss_mb: float
    warm_up_problems: list[str]

    @property
    def problems(self) -> list[str]:
        """What went wrong in any of them."""
        parts = (self.plain, self.open, self.streams, self.large, self.tls, self.refusals.closed)
        return self.warm_up_problems + [problem for part in parts for problem in part.problems]


# Closed loop ------------------------------------------------------------------------------------


async def warm_up(station: Station) -> list[str]:
    """Open connections, create the tasks, let the output be learned; return what went wrong."""
    problems: list[str] = []
    for arm in (DIRECT, THROUGH) if station.speaks_plain else (THROUGH,):
        async with _generator(station, arm, chat_body(_SMALL_BYTES)) as generator:
            run = await generator.closed_loop(CONCURRENCY, _WARM_UP_S)
            problems += run.problems()
    station.collect_served()
    return problems


async def closed(station: Station, scale: Scale, size_bytes: int = _SMALL_BYTES) -> Closed:
    """Calls with a body of `size_bytes`, both arms in turns; one, if the provider is on TLS."""
    result, body = Closed(), chat_body(size_bytes)
    async with (
        _generator(station, DIRECT, body) as direct,
        _generator(station, THROUGH, body) as through,
    ):
        for _ in range(scale.slices):
            if station.speaks_plain:
                alone = await direct.closed_loop(CONCURRENCY, scale.seconds / 2)
                result.direct_per_s.append(alone.achieved_per_s)
                result.problems += alone.problems()
            result.note(*await station.costed(through.closed_loop(CONCURRENCY, scale.seconds)))
            station.collect_served()
    return result


async def refusals(station: Station, scale: Scale) -> Refusals:
    """Calls of tasks that are over their budget, which the gateway has to enforce."""
    body, result = chat_body(_SMALL_BYTES), Closed()
    spend = {"x-fake-prompt-tokens": str(_SPENT_TOKENS)}
    async with _generator(station, THROUGH, body, spend) as spending:
        result.problems += (await spending.closed_loop(TASKS, 0)).problems()  # one call of each
    await station.settled()
    station.collect_served()
    async with _generator(station, THROUGH, body) as refused:
        run, cost = await station.costed(refused.closed_loop(CONCURRENCY, scale.seconds))
    result.note(run, cost, REFUSED)
    return Refusals(result, station.collect_served().calls)


# Open loop --------------------------------------------------------------------------------------


async def open_loop(station: Station, scale: Scale, rng: Random) -> Open:
    """Calls at `OPEN_RATE`; both arms of a round have one schedule, their order is drawn."""
    runs: dict[str, list[Run]] = {DIRECT: [], THROUGH: []}
    body = chat_body(_SMALL_BYTES)
    async with (
        _generator(station, DIRECT, body) as direct,
        _generator(station, THROUGH, body) as through,
    ):
        arms = {DIRECT: direct, THROUGH: through}
        for generator in arms.values():
            await generator.open(_READY)
        for _ in range(scale.rounds):
            schedule = poisson(OPEN_RATE, scale.seconds / 2, rng)
            for arm in rng.sample(sorted(arms), len(arms)):
                runs[arm].append(await arms[arm].open_loop(schedule))
            station.collect_served()
    every = runs[DIRECT] + runs[THROUGH]
    latencies = {arm: [run.latencies_s() for run in runs[arm]] for arm in arms}
    return Open(
        p50=_compared(latencies, 0.5, rng),
        p99=_compared(latencies, 0.99, rng),
        lag_p99_ms=_percentile_ms([run.lags_s() for run in every], 0.99),
        offered_per_s=_mean([run.offered_per_s for run in runs[THROUGH]]),
        achieved_per_s=_mean([run.achieved_per_s for run in runs[THROUGH]]),
        rounds=scale.rounds,
        problems=[problem for run in every for problem in run.problems()],
    )


# Streams ----------------------------------------------------------------------------------------


async def streams(station: Station, scale: Scale, rng: Random) -> Streams:
    """`STREAMS` at a time, begun evenly over the length of one."""
    runs: dict[str, list[Run]] = {DIRECT: [], THROUGH: []}
    cost, body = NO_COST, chat_body(_SMALL_BYTES, stream=True)
    length_s = CHUNKS * CHUNK_DELAY_MS / 1000
    seconds = max(scale.seconds, 2 * length_s)
    async with (
        _generator(station, DIRECT, body, _STREAM_HEADERS) as direct,
        _generator(station, THROUGH, body, _STREAM_HEADERS) as through,
    ):
        for _ in range(scale.slices):
            runs[DIRECT].append(await direct.closed_loop(STREAMS, seconds, length_s))
            run, spent = await station.costed(through.closed_loop(STREAMS, seconds, length_s))
            runs[THROUGH].append(run)
            cost += spent
            station.collect_served()
    first_bytes = {arm: [run.first_bytes_s() for run in runs[arm]] for arm in runs}
    chunks = sum(run.events for run in runs[THROUGH])
    return Streams(
        chunk=cost.per(chunks),
        chunks=chunks,
        chunks_per_s=chunks / sum(run.seconds for run in runs[THROUGH]),
        first_p50=_compared(first_bytes, 0.5, rng),
        first_p99=_compared(first_bytes, 0.99, rng),
        gap_p99_direct_ms=_percentile_ms([run.gaps_s for run in runs[DIRECT]], 0.99),
        gap_p99_through_ms=_percentile_ms([run.gaps_s for run in runs[THROUGH]], 0.99),
        problems=[
            problem for arm in runs.values() for run in arm for problem in _stream_problems(run)
        ],
    )


def _stream_problems(run: Run) -> list[str]:
    """Streams that failed, or lacked a token: each is one event, with one before and two after."""
    short = [sample for sample in run.answered if sample.events < CHUNKS]
    return run.problems() + [f"a stream of {sample.events} events" for sample in short]


# Parts ------------------------------------------------------------------------------------------


def _generator(
    station: Station, arm: str, body: bytes, headers: Mapping[str, str] | None = None
) -> Generator:
    """A generator for one arm: straight to the provider, or through the gateway."""
    address = (station.provider if arm == DIRECT else station.gateway).address
    return Generator(*address, chat_requests(address, body, arm=arm, headers=headers))


def _compared(arms: Mapping[str, Sequence[Sequence[float]]], share: float, rng: Random) -> Compared:
    direct, through = arms[DIRECT], arms[THROUGH]
    return Compared(
        _percentile_ms(direct, share),
        _percentile_ms(through, share),
        added_ms(direct, through, share, rng),
    )


def _percentile_ms(rounds: Iterable[Iterable[float]], share: float) -> float:
    return percentile([value for one in rounds for value in one], share) * 1000


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
