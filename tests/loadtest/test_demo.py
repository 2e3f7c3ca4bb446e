"""The demo: it tells a true story, and leaves nothing behind, however it ends."""

import asyncio
import io
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from loadtest.narrator import Narrator
from tests.e2e.running_gateway import until

ROOT = Path(__file__).parents[2]
HEADERS = {
    "x-tollgate-decision": "flag",
    "x-budget-task-tokens-used": "21950",
    "x-budget-task-tokens-limit": "23400",
    "x-budget-pressure": "94",
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_call_is_one_line_from_the_headers() -> None:
    """Phase, tokens, decision and balance, as the gateway's headers say."""
    out = io.StringIO()
    Narrator(out).call("VERIFY", "runs the tests", "3,000 + 600", HEADERS)
    line = " ".join(out.getvalue().split())
    assert line == "VERIFY runs the tests 3,000 + 600 flag 21,950 / 23,400 94%"


def test_headers_that_are_missing_show_as_such() -> None:
    """An answer that says nothing of a budget does not end the story."""
    out = io.StringIO()
    Narrator(out).call("VERIFY", "runs the tests", "-", {})
    assert out.getvalue().split()[-5:] == ["?", "?", "/", "?", "?%"]


def test_colours_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """None in a pipe, none where NO_COLOR is set."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    piped, shown, plain = io.StringIO(), Terminal(), Terminal()
    Narrator(piped).title("Done.")
    Narrator(shown).title("Done.")
    monkeypatch.setenv("NO_COLOR", "1")
    Narrator(plain).title("Done.")
    assert piped.getvalue() == plain.getvalue() == "\nDone.\n"
    assert shown.getvalue() == "\n\x1b[1mDone.\x1b[0m\n"


@asynccontextmanager
async def demo(folder: Path, *arguments: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtest.demo", *arguments),
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.slow
async def test_the_story(tmp_path: Path) -> None:
    """Stopped in VERIFY after one request, freed by a grant, finished; the books are equal."""
    async with demo(tmp_path) as process:
        output, errors = await process.communicate()
    told = output.decode()
    assert (process.returncode, errors) == (0, b""), told
    assert "\x1b" not in told
    decisions = re.findall(r"^  ([A-Z]+) .* (allow|flag|refuse) ", told, re.MULTILINE)
    assert decisions[:8] == [
        *[("STRATEGIZE", "allow")] * 2,
        ("SPEC", "allow"),
        ("PLAN", "allow"),
        *[("THINK", "allow")] * 2,
        *[("IMPLEMENT", "allow")] * 2,
    ]
    assert decisions[8:12] == [("VERIFY", word) for word in ("allow", "flag", "flag", "refuse")]
    assert [phase for phase, _ in decisions[12:]] == ["VERIFY", "REVIEW", "PR"]
    assert "openai.BadRequestError" in told
    assert "Task fix-flaky-test exceeded token budget: 29,150 / 23,400 (125%)" in told
    assert "1 by the SDK: nothing was retried; 0 reached the provider" in told
    assert "exceeded, tripped" in told
    assert "The provider billed 34,850 tokens in 14 calls, we counted the same." in told
    assert list(tmp_path.glob("tollgate-demo-*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_end_in_the_middle(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C stops what was started and removes what was written; no traceback is shown."""
    async with demo(tmp_path, "--ttfb-ms", "2000") as process:
        told = ""
        while "STRATEGIZE" not in told:
            line = await process.stdout.readline()
            assert line, told
            told += line.decode()
        process.send_signal(number)
        _, errors = await process.communicate()
    assert (process.returncode, errors) == (130, b"")
    assert list(tmp_path.glob("tollgate-demo-*")) == []
    await until(lambda: not running_below(tmp_path), "the end of all that was started")


def running_below(folder: Path) -> list[str]:
    """Return the processes that were given files or a home below a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            if str(folder).encode() in words:
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found
