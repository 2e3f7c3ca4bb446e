"""A fake provider with a gateway before it, pinned to cores, and what is read off the two.

The worker and the store share one core, the provider and the generator the other, so that the
gateway's CPU time is its own and neither side waits for the other's core.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.admin_client import AdminClient
from loadtest.generator import Run
from loadtest.linux import children, cpu_us, own_cores, peak_rss_bytes, pin
from loadtest.programs import Gateway, ProgramError, Provider, fake_provider, gateway
from loadtest.provider_client import forget_journal, read_journal
from loadtest.provider_journal import Totals, total
from loadtest.traffic import THROUGH

_SETTLE_S = 0.3  # an answered call is settled and recorded a moment later
_SETTLE_TRIES = 20
_NO_TOTALS = Totals(0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Cost:
    """CPU time that a run took in each of the gateway's processes, in microseconds."""

    worker_us: float
    store_us: float
    supervisor_us: float
    ledger_us: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        """Both runs together."""
        return Cost(
            self.worker_us + other.worker_us,
            self.store_us + other.store_us,
            self.supervisor_us + other.supervisor_us,
            self.ledger_us + other.ledger_us,
        )

    def per(self, units: int) -> "Cost":
        """The share of one of `units`, calls or chunks."""
        count = max(1, units)
        return Cost(
            self.worker_us / count,
            self.store_us / count,
            self.supervisor_us / count,
            self.ledger_us / count,
        )


NO_COST = Cost(0, 0, 0)


class Station:
    """The two programs under measurement."""

    def __init__(self, provider: Provider, running: Gateway) -> None:
        self.provider = provider
        self.gateway = running
        self.admin = AdminClient(running.admin_url, running.token)
        processes = children(running.pid)
        self._worker = _one(processes, "gateway.app")
        self._store = _one(processes, "valkey-server", "redis-server")
        self._ledger = _one(processes, "gateway.writer_app")
        self._served = _NO_TOTALS

    def pin(self) -> str:
        """Give the gateway a core of its own; return what was done, for people."""
        cores = own_cores()
        if len(cores) < 2:
            return "not pinned: there is one core only"
        ours, theirs = cores[0], cores[1]
        for pid in (os.getpid(), self.provider.pid, self.gateway.pid, self._ledger):
            pin(pid, [ours])
        for pid in (self._worker, self._store):
            pin(pid, [theirs])
        return (
            f"gateway worker and store on core {theirs}; provider, generator, supervisor and the "
            f"ledger's writer on core {ours}"
        )

    @property
    def speaks_plain(self) -> bool:
        """Whether the generator can ask the provider straight: it speaks no TLS."""
        return not self.provider.ca_file

    @property
    def worker_pid(self) -> int:
        """Return the process id of the only worker."""
        return self._worker

    @property
    def peak_rss_bytes(self) -> int:
        """The worker's."""
        return peak_rss_bytes(self._worker)

    async def costed(self, running: Awaitable[Run]) -> tuple[Run, Cost]:
        """Return a run and what it cost, settling and recording included."""
        before = self._spent()
        run = await running
        await asyncio.sleep(_SETTLE_S)
        after = self._spent()
        return run, Cost(
            after.worker_us - before.worker_us,
            after.store_us - before.store_us,
            after.supervisor_us - before.supervisor_us,
            after.ledger_us - before.ledger_us,
        )

    def _spent(self) -> Cost:
        processes = (self._worker, self._store, self.gateway.pid, self._ledger)
        return Cost(*map(cpu_us, processes))

    async def settled(self) -> None:
        """Wait until no task holds anything."""
        for _ in range(_SETTLE_TRIES):
            if not any(task["open_calls"] for task in self.admin.tasks()):
                return
            await asyncio.sleep(_SETTLE_S)

    # The provider's truth against the gateway's store ---------------------------------------------

    def collect_served(self) -> Totals:
        """Move the provider's journal into our sums; return what came through the gateway since."""
        entries = read_journal(self.provider)
        forget_journal(self.provider)
        served = total(entry for entry in entries if entry.tag == THROUGH)
        self._served = _sum(self._served, served)
        return served

    async def ledger_problems(self) -> list[str]:
        """Return where the tasks' totals differ from what the provider served; [] if nowhere."""
        self.collect_served()
        problems: list[str] = []
        for _ in range(_SETTLE_TRIES):
            tasks = [self.admin.task(task["id"]) for task in self.admin.tasks()]
            problems = ledger_differences(tasks, self._served)
            if not problems:
                break
            await asyncio.sleep(_SETTLE_S)
        return problems

    @property
    def served(self) -> Totals:
        """What came through the gateway so far."""
        return self._served


@asynccontextmanager
async def station(
    folder: Path, settings: Mapping[str, str], *provider_options: str
) -> AsyncIterator[Station]:
    """Start the two programs; they are stopped at the end of the block."""
    async with (
        fake_provider(folder, *provider_options) as provider,
        gateway(folder, provider, settings) as running,
    ):
        yield Station(provider, running)


def ledger_differences(tasks: Sequence[Mapping[str, Any]], served: Totals) -> list[str]:
    """Return where the totals of `tasks`, as the admin API tells them, are not what was served."""
    raw = [task["raw_tokens"] for task in tasks]
    tokens = [task["totals"]["tokens"] for task in tasks]
    pairs = {
        "calls": (sum(task["totals"]["calls"]["used"] for task in tasks), served.calls),
        "tokens": (
            sum(each["used"] for each in tokens),
            served.prompt_tokens + served.completion_tokens,
        ),
        "input tokens": (
            sum(each["input"] + each["cached_read"] for each in raw),
            served.prompt_tokens,
        ),
        "output tokens": (sum(each["output"] for each in raw), served.completion_tokens),
        "tokens still held": (sum(each["reserved"] for each in tokens), 0),
        "estimated calls": (sum(task["counters"]["estimated"]["calls"] for task in tasks), 0),
    }
    return [
        f"{name}: {stored:,} in the store, {true:,} at the provider"
        for name, (stored, true) in pairs.items()
        if stored != true
    ]


def _one(processes: Mapping[int, str], *names: str) -> int:
    found = [pid for pid, line in processes.items() if any(name in line for name in names)]
    if len(found) != 1:
        raise ProgramError(f"expected one process {names[0]}, found {len(found)}")
    return found[0]


def _sum(one: Totals, other: Totals) -> Totals:
    return Totals(
        one.calls + other.calls,
        one.prompt_tokens + other.prompt_tokens,
        one.completion_tokens + other.completion_tokens,
        one.cached_tokens + other.cached_tokens,
        one.reasoning_tokens + other.reasoning_tokens,
    )
