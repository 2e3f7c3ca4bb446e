"""A process that has imported the gateway, and forks: a gateway is up in a third of the time.

Importing the supervisor costs more than all else that a start does, and tests start some two hundred
gateways. What is forked then runs `python -m gateway` from its first line on, with an environment,
arguments and files of its own. Gateways whose coverage is measured, `make run` and `make demo` are
started without it. Run as `python -m tests.e2e.fork_server <fd>`.
"""

import asyncio
import atexit
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from runpy import run_module
from typing import Any, NoReturn

ROOT = Path(__file__).parents[2]
_TAKES_LONG = ("gateway.cli", "gateway.supervisor")
_MOST_BYTES = 1 << 18  # of a request; an environment is much smaller


class ForkedProcess:
    """What tests use of asyncio.subprocess.Process, for a gateway that is not our own child."""

    def __init__(self, server: "ForkServer", pid: int) -> None:
        self.pid = pid
        self._server = server
        self._code: int | None = None
        self._pidfd = os.pidfd_open(pid)

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while the process runs."""
        if self._code is None and select.select([self._pidfd], [], [], 0)[0]:
            self._code = self._server.reap(self.pid)
            os.close(self._pidfd)
        return self._code

    def send_signal(self, number: int) -> None:
        """Send a signal, if the process still runs."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it without any notice."""
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        """Wait for the end; return the exit code."""
        while (code := self.returncode) is None:
            await asyncio.sleep(0.01)
        return code


class ForkServer:
    """The process that forks, as a test's process sees it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            environment = {**os.environ}
            environment.pop("COVERAGE_PROCESS_CONFIG", None)
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env=environment,
            )

    def launch(
        self, arguments: list[str], environment: Mapping[str, str], out: int, errors: int
    ) -> ForkedProcess:
        """Start `python -m gateway` with output to two open files."""
        wanted = {"arguments": arguments, "environment": dict(environment)}
        return ForkedProcess(self, self._ask(wanted, [out, errors]))

    def reap(self, pid: int) -> int:
        """Return the exit code of a process that has ended."""
        return self._ask({"reap": pid}, [])

    def _ask(self, wanted: Mapping[str, Any], files: list[int]) -> int:
        socket.send_fds(self._socket, [json.dumps(wanted).encode()], files)
        return int(self._socket.recv(_MOST_BYTES))

    def close(self) -> None:
        """Let the process end."""
        self._socket.close()
        self._process.wait()


@cache
def fork_server() -> ForkServer:
    """Return this process's server; it ends with the process."""
    server = ForkServer()
    atexit.register(server.close)
    return server


# The process itself -------------------------------------------------------------------------------


def _serve(requests: socket.socket) -> None:
    for module in _TAKES_LONG:
        import_module(module)
    gc.freeze()
    while True:
        message, files, _, _ = socket.recv_fds(requests, _MOST_BYTES, 2)
        if not message:
            return
        wanted = json.loads(message)
        if "reap" in wanted:
            _, status = os.waitpid(wanted["reap"], 0)
            requests.send(str(os.waitstatus_to_exitcode(status)).encode())
            continue
        pid = os.fork()
        if pid == 0:
            requests.close()
            _become_gateway(wanted["arguments"], wanted["environment"], files)
        for file in files:
            os.close(file)
        requests.send(str(pid).encode())


def _become_gateway(
    arguments: list[str], environment: dict[str, str], files: list[int]
) -> NoReturn:
    code = 1
    try:
        for number, file in enumerate(files, start=1):
            os.dup2(file, number)
            os.close(file)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv[1:] = arguments
        run_module("gateway", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as inherited:
        _serve(inherited)
