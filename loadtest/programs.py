"""The fake provider and the gateway as child processes, on free ports, with a state of their own.

Nothing of the caller's own set-up reaches them: neither its environment's TOLLGATE_ variables nor
its config/gateway.yaml. They end with the block that they were started in, and with this process.
"""

import asyncio
import os
import re
import secrets
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from gateway.child import dies_with_parent

ROOT = Path(__file__).parent.parent
_START_WAIT_S = 30.0
_STOP_WAIT_S = 20.0
_LOG_LINES_SHOWN = 15
_OWN_SETTINGS = ("TOLLGATE_", "DISABLE_BUDGET_ENFORCEMENT")


class ProgramError(Exception):
    """A program did not start; the message holds the end of its log."""


@dataclass(frozen=True)
class Provider:
    """A running fake provider. `ca_file` is "" unless it serves https."""

    pid: int
    base_url: str
    ca_file: str

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return _address(self.base_url)


@dataclass(frozen=True)
class Gateway:
    """A running gateway; `pid` is the supervisor's."""

    pid: int
    base_url: str
    admin_url: str
    token: str
    log: Path

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the data plane."""
        return _address(self.base_url)


def end_on_signals() -> asyncio.Event:
    """Cancel the running task on Ctrl-C or SIGTERM, so that it stops what it has started.

    Returns what is set by then.
    """
    task, told, loop = asyncio.current_task(), asyncio.Event(), asyncio.get_running_loop()

    def end() -> None:
        told.set()
        if task is not None:
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    return told


@asynccontextmanager
async def fake_provider(folder: Path, *options: str) -> AsyncIterator[Provider]:
    """Run a fake provider; it keeps a journal, but not the requests themselves."""
    log = folder / f"provider-{secrets.token_hex(4)}.log"
    command = ("loadtest.fake_provider", "--port", "0", "--no-requests", *options)
    patterns = [r"fake provider on (\S+)"] + ([r"ca file (\S+)"] if "--tls" in options else [])
    async with _running(command, {}, log, patterns) as (pid, found):
        yield Provider(pid, found[0], found[1] if len(found) > 1 else "")


@asynccontextmanager
async def gateway(
    folder: Path, provider: Provider, settings: Mapping[str, str]
) -> AsyncIterator[Gateway]:
    """Run a gateway with one worker and the embedded store before a provider.

    `settings` are further TOLLGATE_ variables, without that prefix.
    """
    name = f"gateway-{secrets.token_hex(4)}"
    token = secrets.token_urlsafe(16)
    config, log = folder / f"{name}.yaml", folder / f"{name}.log"
    config.touch()
    values = {
        "STATE_DIR": str(folder / name),
        "ADMIN__TOKEN": token,
        "SERVER__WORKERS": "1",
        "UPSTREAMS__OPENAI__BASE_URL": provider.base_url,
        "UPSTREAMS__OPENAI__CA_FILE": provider.ca_file,
        **settings,
    }
    environment = {f"TOLLGATE_{key}": value for key, value in values.items()}
    command = ("gateway", "serve", "--config", str(config), "--port", "0", "--admin-port", "0")
    patterns = [r"OPENAI_BASE_URL=(\S+)/v1", r"admin +(\S+)/admin/v1/tasks"]
    async with _running(command, environment, log, patterns) as (pid, found):
        yield Gateway(pid, found[0], found[1], token, log)


@asynccontextmanager
async def _running(
    module: tuple[str, ...], environment: Mapping[str, str], log: Path, patterns: list[str]
) -> AsyncIterator[tuple[int, list[str]]]:
    """Run a module; yield its pid and what the patterns found in its output, in their order."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(_OWN_SETTINGS)
    }
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *module),
            cwd=ROOT,
            env={**inherited, **environment},
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=errors,
            start_new_session=True,  # a Ctrl-C is ours to handle
            preexec_fn=dies_with_parent(),
        )
    try:
        found = await _read_until(process, patterns)
        if found is None:
            raise _not_started(module[0], log)
        yield process.pid, found
    finally:
        await _stop(process)


def _not_started(name: str, log: Path) -> ProgramError:
    last = log.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:]
    return ProgramError("\n".join([f"{name} did not start:", *last]))


async def _read_until(process: Process, patterns: Sequence[str]) -> list[str] | None:
    """Return what the patterns found in the output, in their order; None if it ends before."""
    found: list[str] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(_START_WAIT_S):
            while process.stdout and (line := await process.stdout.readline()):
                if match := re.search(patterns[len(found)], line.decode()):
                    found.append(match[1])
                if len(found) == len(patterns):
                    return found
    return None


async def _stop(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_WAIT_S)
    except TimeoutError:
        process.kill()
        await process.wait()


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or 80
