"""`make loadtest`: what the gateway costs, measured on this machine, beside what it may cost.

Exits with 1 if a call was lost or answered wrongly, or if the store's totals differ from the
provider's.
"""

import argparse
import asyncio
import dataclasses
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import SystemRandom
from typing import TypeVar

import msgspec
import uvloop

from loadtest.linux import busy_s, machine, own_cpu_s, pace_ns
from loadtest.measurements import (
    LARGE_BYTES,
    Figures,
    Scale,
    closed,
    open_loop,
    refusals,
    streams,
    warm_up,
)
from loadtest.programs import ProgramError, end_on_signals
from loadtest.station import Station, station
from loadtest.table import table

_QUICK = Scale(seconds=1.0, slices=1, rounds=5)
_FEWEST_ROUNDS = 5
_BUSY_LOAD = 0.5
_BUSY_SHARE = 0.1
_UNSTEADY = 1.2
_ERRORS_SHOWN = 10
_MB = 1024 * 1024
_SCRIPT = ("--script", '{"prompt_tokens": 250, "completion_tokens": 20}')
_SETTINGS = {
    "LOG__CALLS": "false",
    "POLICIES__MODE": "observe",
    "BUDGETS__FILE": "config/presets/coding_agent.yaml",
}
_ENFORCING = {"LOG__CALLS": "false", "POLICIES__MODE": "enforce"}
_SET_UP = """\
set-up   one worker, embedded store, policy on (observe; enforce for the refusals), no gateway
         keys, no call log, other events to a file. 50 tasks in 9 phases, far from their limits,
         with the headers of openai-python; the provider answers 250 + 20 tokens in 1 KB of JSON"""

T = TypeVar("T")


@dataclass
class Ledger:
    """What the store was held to: the provider's own journal."""

    calls: int = 0
    problems: list[str] = field(default_factory=list)

    async def check(self, bench: Station) -> None:
        """Compare the tasks' totals with what the provider served."""
        self.problems += await bench.ledger_problems()
        self.calls += bench.served.calls


class Conditions:
    """How quiet the machine was: on a busy one every figure is too high."""

    def __init__(self) -> None:
        self.load_before = os.getloadavg()[0]
        self.paces_ns = [pace_ns()]
        self._began = time.monotonic()
        self._others_before_s = busy_s() - own_cpu_s()

    def note_pace(self) -> None:
        """Note how fast the machine is now: shared hosts change without showing any load."""
        self.paces_ns.append(pace_ns())

    @property
    def is_steady(self) -> bool:
        """Return whether the machine was about as fast at any time."""
        return max(self.paces_ns) < _UNSTEADY * min(self.paces_ns)

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self._began

    @property
    def others_share(self) -> float:
        """What others have used since, as a share of one core; once our programs have ended."""
        return max(0.0, busy_s() - own_cpu_s() - self._others_before_s) / self.seconds


async def measure(scale: Scale, folder: Path, ledger: Ledger, conditions: Conditions) -> Figures:
    """Measure everything; each set-up has programs and a state of its own."""
    end_on_signals()
    rng = SystemRandom()
    async with station(folder, _SETTINGS, *_SCRIPT) as bench:
        _say(f"pinned   {bench.pin()}")
        problems = await _announced("warm-up", warm_up(bench))
        plain = await _announced("closed loop", closed(bench, scale))
        opened = await _announced("open loop", open_loop(bench, scale, rng))
        streamed = await _announced("streams", streams(bench, scale, rng))
        large = await _announced("large prompts", closed(bench, scale, LARGE_BYTES))
        peak_rss_mb = bench.peak_rss_bytes / _MB
        await ledger.check(bench)
    conditions.note_pace()
    async with station(folder, _SETTINGS, "--tls", *_SCRIPT) as bench:
        bench.pin()
        problems += await warm_up(bench)
        tls = await _announced("provider on TLS", closed(bench, scale))
        await ledger.check(bench)
    conditions.note_pace()
    async with station(folder, _ENFORCING, *_SCRIPT) as bench:
        bench.pin()
        refused = await _announced("refusals", refusals(bench, scale))
        await ledger.check(bench)
    conditions.note_pace()
    return Figures(plain, opened, streamed, large, tls, refused, peak_rss_mb, problems)


async def _announced(what: str, measuring: Awaitable[T]) -> T:
    """Await a measurement; who watches is told which one."""
    if sys.stderr.isatty():
        print(f"         {what} ...", file=sys.stderr, flush=True)
    return await measuring


def main() -> int:
    """Measure, print, and return the exit code."""
    options = _options()
    scale = _QUICK if options.quick else Scale()
    given = {"seconds": options.seconds, "rounds": options.rounds}
    scale = dataclasses.replace(scale, **{k: v for k, v in given.items() if v is not None})
    conditions, ledger = Conditions(), Ledger()
    _introduce(conditions)
    try:
        with tempfile.TemporaryDirectory(prefix="tollgate-load-") as folder:
            figures = uvloop.run(measure(scale, Path(folder), ledger, conditions))
    except ProgramError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    others_share = conditions.others_share
    errors = figures.problems + ledger.problems
    _say(table(figures))
    _conclude(errors, ledger)
    _say(f"took {conditions.seconds:.0f} s; other processes used {others_share:.0%} of one core")
    paces = ", ".join(f"{pace:.0f}" for pace in conditions.paces_ns)
    _say(f"ns for a turn of a fixed loop, at the start and after each set-up: {paces}")
    if others_share > _BUSY_SHARE or not conditions.is_steady:
        _say("WARNING  the machine was not quiet, or not steady: figures are too high")
    if options.json:
        content = {
            "machine": machine(),
            "load_before": conditions.load_before,
            "others_share": others_share,
            "paces_ns": conditions.paces_ns,
            "figures": figures,
            "errors": errors,
        }
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(content)))
    return 1 if errors else 0


def _introduce(conditions: Conditions) -> None:
    load = conditions.load_before
    _say(f"Tollgate load test\n\nmachine  {machine()}; load average {load:.2f} before the start")
    if load > _BUSY_LOAD:
        _say(f"WARNING  load average above {_BUSY_LOAD}: something else runs here, figures suffer")
    _say(_SET_UP)


def _conclude(errors: Sequence[str], ledger: Ledger) -> None:
    for error, count in Counter(errors).most_common(_ERRORS_SHOWN):
        _say(f"error: {error}" + (f" ({count:,} times)" if count > 1 else ""))
    verdict = "NOT EQUAL" if ledger.problems else "equal"
    _say(f"\nledger check: {verdict} ({ledger.calls:,} calls, tokens in and out: store, provider)")
    _say(f"lost or wrong calls: {len(errors) - len(ledger.problems)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.report", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less exact, under 40 s")
    parser.add_argument("--seconds", type=float, help="length of each slice of a measurement")
    parser.add_argument("--rounds", type=int, help="of the open loop, at least 5")
    parser.add_argument("--json", type=Path, help="write all figures here too")
    options = parser.parse_args()
    if options.rounds is not None and options.rounds < _FEWEST_ROUNDS:
        parser.error(f"--rounds: at least {_FEWEST_ROUNDS}, or the interval means nothing")
    if options.seconds is not None and options.seconds <= 0:
        parser.error("--seconds: more than none")
    return options


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
