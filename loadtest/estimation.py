"""`python -m loadtest.estimation`: what long prompts, exact counts and an idle worker cost.

- A prompt of 100,000 tokens (430 KB) far from any limit, which is not counted: CPU time of the
  worker, beside a call of 1 KB; by turns, in rounds of a second, since a busy host makes both dear.
- The same near its limit, where each has to be counted: the longest time in which the worker
  answered nobody, seen from outside by a connection that asks for a route that there is not, a
  millisecond after the last answer. Such a wait has the machine's own pauses in it, so beside it
  stand the same without the counted calls, and the longest that the worker's loop was on a core
  while a probe waited: what of a wait is its own. It may have worked before the probe came: add
  the millisecond.
- Memory of an idle worker, and the time from the start to the first answer of a provider.

`--quick` is for tests: a tenth of the time, figures of little worth. Exits with 1 if a call was
answered wrongly, or if one was counted that need not be, or the other way round. Aims that are
missed do not fail.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import uvloop

from loadtest.generator import Generator, Run, constant
from loadtest.linux import children, machine, main_thread_ns, pace_ns, peak_rss_bytes
from loadtest.programs import ROOT, ProgramError, end_on_signals
from loadtest.station import Cost, Station, station
from loadtest.traffic import chat_requests

PROMPT_TOKENS = 100_000
_SMALL_CHARS = 900
_CONCURRENCY = 4
_ROUNDS, _ROUND_S = 7, 1.0
_COUNTED_PER_S = 4.0
_COUNTED_S = 10.0
_PROBE_AFTER_S = 0.001
_MB = 1024 * 1024
_STALL_MS = 5.0
_QUICK = 0.1
_SCRIPT = ("--script", '{"prompt_tokens": 250, "completion_tokens": 20}')
_SETTINGS = {"LOG__CALLS": "false", "BUDGETS__FILE": "config/presets/coding_agent.yaml"}
_NO_ROUTE_STATUS = 404


@dataclass
class Silence:
    """How long each probe waited for its answer, and the loop's time on a core meanwhile; in ms."""

    waits_ms: list[float] = field(default_factory=list)
    work_ms: list[float] = field(default_factory=list)

    def line(self, what: str) -> str:
        """Return the figures as a row."""
        ordered = sorted(self.waits_ms)
        late = sum(wait > _STALL_MS for wait in ordered)
        return (
            f"{what:<44}p50 {ordered[len(ordered) // 2]:.2f} ms, "
            f"p99.9 {ordered[len(ordered) * 999 // 1000]:.1f} ms, longest {ordered[-1]:.1f} ms, "
            f"{late} of {len(ordered):,} above {_STALL_MS:g} ms; "
            f"loop at work meanwhile {max(self.work_ms):.1f} ms at most"
        )


def code_prompt() -> str:
    """Source code of this project, about `PROMPT_TOKENS` long: 4.09 characters are a token."""
    sources = sorted(ROOT.glob("gateway/**/*.py")) * 4
    return "".join(path.read_text() for path in sources)[: PROMPT_TOKENS * 4_085 // 1_000]


def chat(text: str, messages: int = 40, **fields: object) -> bytes:
    """Return a chat request whose text is spread over so many messages."""
    size = -(-len(text) // messages)
    said = [
        {"role": "user", "content": text[start : start + size]}
        for start in range(0, len(text), size)
    ]
    request = {"model": "gpt-4o-mini", "messages": said, **fields}
    return json.dumps(request, separators=(",", ":"), ensure_ascii=False).encode()


async def cpu_of_prompts(bench: Station, scale: float, problems: list[str]) -> list[str]:
    """Return the rows of prompts far from any limit."""
    bodies = {"small": chat(code_prompt()[:_SMALL_CHARS], 1), "long": chat(code_prompt())}
    costs: dict[str, list[Cost]] = {name: [] for name in bodies}
    for round_ in range(1 + _ROUNDS):
        for name, body in bodies.items():
            requests = chat_requests(bench.gateway.address, body, prefix=name)
            async with Generator(*bench.gateway.address, requests) as generator:
                await generator.closed_loop(_CONCURRENCY, 0.1)
                calls = generator.closed_loop(_CONCURRENCY, scale * _ROUND_S)
                run, cost = await bench.costed(calls)
            problems += run.problems()
            if round_:  # the first is for warming up
                costs[name].append(cost.per(len(run.samples)))
    small, long = ([cost.worker_us / 1000 for cost in costs[name]] for name in bodies)
    more = [one - other for one, other in zip(long, small, strict=True)]
    if _counting_processes(bench):
        problems.append("a prompt far from its limit was counted")
    title = f"prompt of {len(bodies['long']) // 1000} KB, worker CPU"
    return [
        f"{'prompt of 1 KB, worker CPU':<44}{_middle_and_least(small)}",
        f"{title:<44}{_middle_and_least(long)}: "
        "receive, read, estimate, reserve, send, relay, settle",
        f"{'the difference, by rounds':<44}{_middle_and_least(more)}",
    ]


def _middle_and_least(costs_ms: list[float]) -> str:
    return f"{median(costs_ms):.2f} ms a call, {min(costs_ms):.2f} in the best round"


async def silence_while_counting(bench: Station, scale: float, problems: list[str]) -> list[str]:
    """Return the rows of prompts near their limit, whose tokens have to be counted."""
    address = bench.gateway.address
    body = chat(code_prompt(), max_tokens=10)
    requests = chat_requests(address, body, prefix="near")
    rows: list[str] = []
    for what, schedule in (
        ("nothing beside the probe", []),
        ("the first count, its process started", [0.5]),
        (f"{_COUNTED_PER_S:g} counted prompts/s", constant(_COUNTED_PER_S, scale * _COUNTED_S)),
    ):
        async with _probed(bench) as silence, Generator(*address, requests) as generator:
            run = await generator.open_loop(schedule)
            await asyncio.sleep(1.0 if schedule else scale * _COUNTED_S)
        problems += run.problems()
        rows.append(silence.line(what) + _answered_ms(run))
    if not _counting_processes(bench):
        problems.append("nothing was counted")
    return rows


def _answered_ms(run: Run) -> str:
    latencies = sorted(run.latencies_s())
    return f"; answered in {latencies[len(latencies) // 2] * 1000:.0f} ms" if latencies else ""


def _counting_processes(bench: Station) -> int:
    return sum("gateway.token_count" in line for line in children(bench.worker_pid).values())


@asynccontextmanager
async def _probed(bench: Station) -> AsyncIterator[Silence]:
    """Ask the worker what it answers at once, again and again, as long as the block lasts."""
    silence = Silence()
    reader, writer = await asyncio.open_connection(*bench.gateway.address)
    probing = asyncio.ensure_future(_probe(reader, writer, bench.worker_pid, silence))
    try:
        yield silence
    finally:
        ended = probing.done()
        probing.cancel()
        (error,) = await asyncio.gather(probing, return_exceptions=True)
        writer.close()
    if ended:
        raise ProgramError(f"the probe ended: {error!r}")


async def _probe(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pid: int, silence: Silence
) -> None:
    while True:
        worked_ns, began = main_thread_ns(pid), time.perf_counter()
        writer.write(b"GET /none HTTP/1.1\r\nHost: probe\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        if int(head.split()[1]) != _NO_ROUTE_STATUS:
            raise ProgramError(f"the probe was answered {head!r}")
        length = head.lower().partition(b"content-length:")[2].split()[0]
        await reader.readexactly(int(length))
        silence.waits_ms.append((time.perf_counter() - began) * 1000)
        silence.work_ms.append((main_thread_ns(pid) - worked_ns) / 1_000_000)
        await asyncio.sleep(_PROBE_AFTER_S)


def worst_case_policies(folder: Path) -> Path:
    """Return a copy of the shipped policies with `reserve: worst_case`."""
    policies = folder / "policies"
    shutil.copytree(ROOT / "policies", policies)
    file = policies / "stop-loss.yaml"
    text = file.read_text().replace("reserve: expected", "reserve: worst_case")
    file.write_text(text)
    return policies


async def measure(folder: Path, scale: float) -> list[str]:
    """Measure all, print it, and return what went wrong."""
    end_on_signals()
    problems: list[str] = []
    began = time.monotonic()
    async with station(folder, {**_SETTINGS, "POLICIES__MODE": "observe"}, *_SCRIPT) as bench:
        address = bench.gateway.address
        async with Generator(*address, chat_requests(address, chat("Hi", 1))) as generator:
            problems += (await generator.open_loop([0.0])).problems()
        started_s = time.monotonic() - began
        rss_mb = peak_rss_bytes(bench.worker_pid) / _MB
        _say(f"{'start of provider and gateway, to an answer':<44}{started_s:.1f} s (aim 3 s)")
        _say(f"{'idle worker, RSS':<44}{rss_mb:.0f} MB (aim 90 MB)")
        bench.pin()
        _say(*await cpu_of_prompts(bench, scale, problems))
        rss_mb = peak_rss_bytes(bench.worker_pid) / _MB
        _say(f"{'worker after them, peak RSS':<44}{rss_mb:.0f} MB")
    enforcing = {
        **_SETTINGS,
        "POLICIES__MODE": "enforce",
        "POLICIES__DIR": str(worst_case_policies(folder)),
        "BUDGETS__FILE": str(_near_budgets(folder)),
    }
    async with station(folder, enforcing, *_SCRIPT) as bench:
        bench.pin()
        _say(*await silence_while_counting(bench, scale, problems))
    return problems


def _near_budgets(folder: Path) -> Path:
    """Return budgets in which the prompt's tokens fit and its bytes do not."""
    file = folder / "near.yaml"
    text = (ROOT / "config" / "phase_budgets.yaml").read_text()
    file.write_text(re.sub(r"(?<=tokens: )\d+", lambda found: str(int(found[0]) * 5), text))
    return file


def _say(*rows: str) -> None:
    for row in rows:
        print(row, flush=True)


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.estimation", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the time")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    _say(f"machine  {machine()}; load average {load:.2f} before the start")
    _say(f"ns for a turn of a fixed loop: {pace_ns():.0f}")
    try:
        with tempfile.TemporaryDirectory() as folder:
            problems = uvloop.run(measure(Path(folder), _QUICK if options.quick else 1.0))
    except ProgramError as error:
        problems = [str(error)]
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    for problem in sorted(set(problems)):
        print(f"error: {problem} ({problems.count(problem)} times)", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
