"""The measurements of estimates: one whole run, in short."""

import subprocess
import sys

import pytest

from loadtest.estimation import Silence


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
@pytest.mark.trial
def test_a_whole_run() -> None:
    """A prompt far from its limit is not counted, one near it is; every call is answered well."""
    command = [sys.executable, "-m", "loadtest.estimation", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for row in (
        "idle worker, RSS",
        " KB, worker CPU",
        "the difference, by rounds",
        "counted prompts/s",
    ):
        assert row in done.stdout


def test_a_row_of_silence() -> None:
    """Percentiles by rank, what was above 5 ms, and what of it was the worker's own."""
    row = Silence([6.0] + [1.0] * 1_999, [0.2, 2.5, 0.1]).line("what")
    assert row.startswith("what   ")
    assert row.endswith(
        "p50 1.00 ms, p99.9 1.0 ms, longest 6.0 ms, 1 of 2,000 above 5 ms; "
        "loop at work meanwhile 2.5 ms at most"
    )
