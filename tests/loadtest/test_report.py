"""The load report: its arithmetic, what it reads off processes, and one whole run."""

import asyncio
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from random import SystemRandom
from typing import Any

import pytest

from loadtest import report
from loadtest.figures import Added, added_ms, percentile, spread
from loadtest.generator import Run, Sample
from loadtest.linux import (
    busy_s,
    children,
    cpu_us,
    machine,
    own_cores,
    own_cpu_s,
    pace_ns,
    peak_rss_bytes,
    pin,
)
from loadtest.measurements import Closed, Compared, Figures, Open, Refusals, Streams
from loadtest.programs import ProgramError, Provider, gateway
from loadtest.provider_journal import Totals
from loadtest.station import Cost, ledger_differences
from loadtest.table import table
from loadtest.traffic import DIRECT, TASKS, chat_body, chat_requests

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
ROOT = Path(__file__).parents[2]

# Arithmetic ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 5), (0.9, 9), (0.91, 10), (1.0, 10)])
def test_percentile_is_a_value_that_was_measured(share: float, value: int) -> None:
    """Nearest rank: the smallest value that so many are not above."""
    assert percentile([10, 1, 9, 2, 8, 3, 7, 4, 6, 5], share) == value


def test_no_values_have_no_percentile() -> None:
    """Nothing measured is an error, not a zero."""
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_added_is_the_difference_of_percentiles() -> None:
    """Each arm's percentile over all its rounds, in ms; equal rounds leave no doubt."""
    direct = [[0.001, 0.002, 0.003]] * 5
    through = [[0.002, 0.004, 0.006]] * 5
    assert added_ms(direct, through, 0.5, SystemRandom()) == pytest.approx((2.0, 2.0, 2.0))


def test_the_interval_covers_rounds_that_differ() -> None:
    """A round that was disturbed widens the interval: whole rounds are drawn."""
    direct = [[0.001]] * 5
    through = [[0.002]] * 3 + [[0.010]] * 2
    added = added_ms(direct, through, 0.5, SystemRandom())
    assert added.low_ms == pytest.approx(1.0)
    assert added.ms == pytest.approx(1.0)
    assert added.high_ms == pytest.approx(9.0)


def test_spread_of_one_measurement_is_none() -> None:
    """A range needs two ends."""
    assert spread([12.4]) == ""
    assert spread([1_200.4, 999.0]) == "999-1,200"


def test_cost_per_unit() -> None:
    """Costs of runs add up and are shared out; no calls cost what was spent, not a crash."""
    both = Cost(100, 50, 10, 40) + Cost(100, 50, 10, 40)
    assert both.per(20) == Cost(10, 5, 1, 4)
    assert both.per(0) == both


def test_a_failed_request_is_as_slow_as_the_timeout() -> None:
    """What was lost stays among the latencies, at the timeout."""
    lost = Sample(intended_at=5.0, sent_at=5.1, ended_at=5.2, problem="connection lost")
    run = Run(timeout_s=10.0, samples=[lost, Sample(5.0, 5.0, 5.5, 6.0, 200)])
    assert run.latencies_s() == [10.0, 1.0]
    assert run.first_bytes_s() == [10.0, 0.5]
    assert run.lags_s() == pytest.approx([0.1, 0.0])
    assert run.problems() == ["connection lost"]


# Traffic ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [300, 1_024, 300_000])
@pytest.mark.parametrize("stream", [False, True])
def test_bodies_have_their_size(size: int, stream: bool) -> None:
    """A chat request of exactly so many bytes, that any JSON parser takes."""
    body = chat_body(size, stream=stream)
    assert len(body) == size
    assert json.loads(body)["stream"] is stream


def test_requests_name_tasks_phases_and_the_arm() -> None:
    """Every task in every phase, once."""
    requests = chat_requests(("127.0.0.1", 9), b"{}", arm=DIRECT, headers={"x-fake-ttfb-ms": "1"})
    assert len(set(requests)) == len(requests) == TASKS * 9
    for request in requests:
        head = request.decode()
        assert "\r\nX-Task-Id: load-" in head
        assert "\r\nX-Task-Phase: " in head
        assert (
            "\r\nX-Request-Tag: direct\r\nx-fake-ttfb-ms: 1\r\nContent-Length: 2\r\n\r\n{}" in head
        )


# Processes ----------------------------------------------------------------------------------------


@linux_only
def test_cpu_time_grows_with_work() -> None:
    """User and system time, in microseconds; what is ours is part of the machine's."""
    before, own, machines = cpu_us(os.getpid()), own_cpu_s(), busy_s()
    while cpu_us(os.getpid()) < before + 100_000:
        sum(range(10_000))
    assert 1_000_000 < peak_rss_bytes(os.getpid()) < 1 << 40
    assert own_cpu_s() - own >= 0.08
    assert busy_s() - machines >= 0.04  # counted in ticks, and not as exactly
    assert 1 < pace_ns() < 10_000
    assert "Python 3." in machine()


@linux_only
async def test_children_are_found_and_pinned() -> None:
    """By their parent, with their command line; a child keeps to the cores it is given."""
    command = (sys.executable, "-c", "input()")
    child = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE)
    try:
        assert children(os.getpid())[child.pid].endswith("-c input()")
        pin(child.pid, own_cores()[:1])
        assert sorted(os.sched_getaffinity(child.pid)) == own_cores()[:1]
    finally:
        child.kill()
        await child.wait()


async def test_a_gateway_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The end of its log is part of the error."""
    provider = Provider(os.getpid(), "ftp://nowhere", "")
    with pytest.raises(ProgramError, match=r"gateway did not start:\n.*http\(s\) origin"):
        async with gateway(tmp_path, provider, {}):
            pytest.fail("it started")


# Reports ------------------------------------------------------------------------------------------


def figures() -> Figures:
    closed = Closed([3_000.0, 3_100.0], [9_000.0, 9_000.0], [140.0, 150.0], Cost(29_000, 9_000, 20))
    closed.calls = 200
    compared = Compared(0.5, 1.25, Added(0.75, 0.5, 1.0))
    chunk = Cost(12.5, 3, 0)
    return Figures(
        plain=closed,
        open=Open(compared, compared, 0.2, 300, 299.5, 7, []),
        streams=Streams(chunk, 64_000, 12_000, compared, compared, 5.5, 6.5, []),
        large=Closed([], [], [1_000.0], Cost(1_000, 0, 0), 1, ["timeout"]),
        tls=Closed([], [], [200.0], Cost(200, 0, 0), 1, []),
        refusals=Refusals(Closed([], [], [90.0], Cost(90, 0, 0), 1, ["status 200"]), 3),
        peak_rss_mb=48.0,
        warm_up_problems=[],
    )


def test_the_table_has_figures_and_aims() -> None:
    """A reader finds each figure, what it should be, and how sure it is."""
    text = table(figures())
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "calls/s through the gateway 3,050 straight to the provider 9,000" in lines
    assert "worker, CPU us per call 145 slices 140-150, aim 150, 200 calls" in lines
    assert "added p99 0.75 ms 95 % CI 0.50 to 1.00, 0.50 -> 1.25" in lines
    assert "generator lag p99 0.20 ms" in lines
    assert "worker, CPU us per chunk 12.5 aim 25, 64,000 chunks at 12,000/s" in lines
    assert "requests that reached the provider 3" in lines
    assert "worker, peak RSS 48 MB" in lines


def test_the_table_warns_of_a_late_generator() -> None:
    """Latencies that the generator itself made are not shown as if they were the gateway's."""
    late = replace(figures().open, lag_p99_ms=1.01)
    assert "do not trust these rows" in table(replace(figures(), open=late))


def test_problems_of_all_measurements_are_gathered() -> None:
    """Whatever went wrong anywhere decides about the exit code."""
    found = replace(figures(), warm_up_problems=["no connection"])
    assert found.problems == ["no connection", "timeout", "status 200"]


def stored(tokens: int) -> dict[str, Any]:
    """A task of two calls with 20 input tokens, as the admin API tells of it."""
    return {
        "totals": {"calls": {"used": 2}, "tokens": {"used": tokens, "reserved": 0}},
        "raw_tokens": {"input": 15, "cached_read": 5, "output": tokens - 20},
        "counters": {"estimated": {"calls": 0}},
    }


def test_equal_ledgers() -> None:
    """Calls and tokens of all tasks together are those of the provider's journal."""
    assert ledger_differences([stored(30), stored(40)], Totals(4, 40, 30, 10, 0)) == []


def test_every_difference_is_told() -> None:
    """With both sides' numbers."""
    assert ledger_differences([stored(29)], Totals(2, 20, 10, 5, 0)) == [
        "tokens: 29 in the store, 30 at the provider",
        "output tokens: 9 in the store, 10 at the provider",
    ]


@pytest.mark.parametrize("option", ["--rounds=4", "--seconds=0"])
def test_options_that_make_no_sense(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer than five rounds have no interval worth the name."""
    monkeypatch.setattr(sys, "argv", ["report", option])
    with pytest.raises(SystemExit):
        report.main()


@linux_only
@pytest.mark.trial
async def test_a_whole_run(tmp_path: Path) -> None:
    """Everything is measured, no call is lost, the store has what the provider billed."""
    file = tmp_path / "figures.json"
    options = ("--quick", "--seconds", "0.2", "--json", str(file))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtest.report", *options),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b""), output.decode() + errors.decode()
    assert b"ledger check: equal" in output
    assert b"lost or wrong calls: 0" in output
    content = json.loads(file.read_bytes())
    assert content["errors"] == []
    assert content["figures"]["plain"]["calls"] > 0
    assert content["figures"]["refusals"]["upstream_requests"] == 0
