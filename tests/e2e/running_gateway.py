"""The real gateway as a child process, and what a test asks of it from outside."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import redis

from gateway.store.embedded import EmbeddedStore
from gateway.store.keys import TenantKeys
from tests.e2e.fork_server import ForkedProcess, fork_server
from tests.store.valkey_server import is_alive

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0  # two cores, other tests beside: a hang is told from slowness by minutes
UNTAGGED = "-anonymous"

_BASE_URL = re.compile(r"OPENAI_BASE_URL=(http://\S+)/v1$", re.MULTILINE)
_ADMIN_URL = re.compile(r"\badmin\s+(http://[^/\s]+)/")
_LAST_LINE = "Ctrl-C stops everything.\n"


async def until(condition: Callable[[], Any], what: str = "condition") -> Any:
    """Return what `condition` gives as soon as it is truthy."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_S
    while not (found := condition()):
        if loop.time() > deadline:
            raise AssertionError(f"{what} did not come true within {PATIENCE_S:.0f} s")
        await asyncio.sleep(0.01)
    return found


def descendants(pid: int) -> dict[int, str]:
    """Return the command lines of a process's children, grandchildren and so on, by pid."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
    found, grown = {pid}, True
    while grown:
        grown = False
        for child, parent in parents.items():
            if parent in found and child not in found:
                found.add(child)
                grown = True
    return {child: command_line(child) for child in found - {pid}}


def command_line(pid: int) -> str:
    """Return a process's command line, empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment without what would change a gateway, and with `extra`."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith("TOLLGATE_") and name != "DISABLE_BUDGET_ENFORCEMENT"
    }
    return inherited | dict(extra)


class Gateway:
    """One gateway under a state folder of its own. Use as an async context manager.

    Its coverage is not measured, so that it runs as its users run it, unless it is a
    `MeasuredGateway`; tests beside the modules measure the rest. It starts no writer of the ledger,
    a process that takes longer to start than all others, unless told to.
    """

    is_measured = False

    def __init__(
        self,
        state_dir: Path,
        provider_url: str,
        *,
        workers: int = 1,
        mode: str = "",
        arguments: tuple[str, ...] = (),
        **environment: str,
    ) -> None:
        self.state_dir = state_dir
        self.workers = workers
        self.url = self.admin_url = self.token = self.banner = ""
        self._arguments = arguments
        self._environment = {
            "TOLLGATE_STATE_DIR": str(state_dir),
            "TOLLGATE_UPSTREAMS__OPENAI__BASE_URL": provider_url,
            "TOLLGATE_UPSTREAMS__ANTHROPIC__BASE_URL": provider_url,
            "TOLLGATE_UPSTREAMS__GEMINI__BASE_URL": provider_url,
            "TOLLGATE_STORE__TIMEOUT_MS": "20000",  # a busy machine is no broken store
            **({} if self.is_measured else {"TOLLGATE_LEDGER__WRITER": "false"}),
            **({"TOLLGATE_POLICIES__MODE": mode} if mode else {}),
            **environment,
        }
        self._process: asyncio.subprocess.Process | ForkedProcess | None = None
        self._log, self._out = state_dir.with_suffix(".log"), state_dir.with_suffix(".out")
        self._store: redis.Redis | None = None

    # Life...

    async def __aenter__(self) -> "Gateway":
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is None:
            return
        try:
            await self.stop(check=error is None)
        except TimeoutError:
            raise AssertionError(f"it does not end:\n{self.log_text}") from error
        finally:
            await self.end()

    @asynccontextmanager
    async def launched(self) -> AsyncIterator["Gateway"]:
        """Start the process and wait for nothing; whatever happens, it ends."""
        await self.launch()
        try:
            yield self
        finally:
            await self.end()

    async def end(self) -> None:
        """End the process, if there still is one, without any notice."""
        if self._process is not None:
            await self.kill()

    async def launch(self) -> None:
        """Start the process; do not wait for anything."""
        arguments = ["serve", "--port", "0", "--admin-port", "0", "--workers", str(self.workers)]
        arguments += self._arguments
        with self._log.open("ab") as log, self._out.open("wb") as out:
            if not self.is_measured:
                self._process = fork_server().launch(
                    arguments, self._child_environment(), out.fileno(), log.fileno()
                )
                return
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway", *arguments),
                cwd=ROOT,
                env=self._child_environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=log,
            )

    def _child_environment(self) -> dict[str, str]:
        variables = environment(self._environment)
        if not self.is_measured:
            variables.pop("COVERAGE_PROCESS_CONFIG", None)
        return variables

    async def start(self) -> None:
        """Start, and read the addresses from the banner."""
        await self.launch()
        try:
            self.banner = await until(self._whole_banner, "the banner")
        except AssertionError as error:
            await self.end()
            raise AssertionError(f"{error}\n{self.log_text}") from None
        self.url, self.admin_url = (
            found[1]
            for pattern in (_BASE_URL, _ADMIN_URL)
            if (found := pattern.search(self.banner))
        )
        token_file = self.state_dir / "admin-token"
        self.token = token_file.read_text().strip() if token_file.exists() else ""

    def _whole_banner(self) -> str:
        assert self.process.returncode is None, "the gateway ended at its start"
        text = self._out.read_text()
        return text if text.endswith(_LAST_LINE) else ""

    @property
    def process(self) -> asyncio.subprocess.Process | ForkedProcess:
        """The supervisor."""
        assert self._process is not None, "the gateway is not running"
        return self._process

    def children(self) -> dict[int, str]:
        """Return the command lines of all processes below the supervisor."""
        return descendants(self.process.pid)

    def worker_pids(self) -> list[int]:
        """Return the workers' process ids."""
        return [pid for pid, command in self.children().items() if "gateway.app" in command]

    def valkey_pid(self) -> int:
        """Return the embedded store's process id."""
        found = [pid for pid, command in self.children().items() if "valkey-server" in command]
        assert len(found) == 1, found
        return found[0]

    def kill_child(self, pid: int) -> None:
        """End one of its processes without any notice."""
        os.kill(pid, signal.SIGKILL)

    async def stop(self, *, check: bool = True) -> int:
        """Stop by SIGTERM; it ends with code 0 and leaves no process behind."""
        process, children = self.process, self.children()
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        code = await self.ended()
        if check:
            assert code == 0, f"exit code {code}:\n{self.log_text}"
            left = [command for pid, command in children.items() if is_alive(pid)]
            assert not left, left
        return code

    async def kill(self) -> dict[int, str]:
        """End the supervisor without any notice; return its children."""
        children = self.children()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.ended()
        return children

    @property
    def has_ended(self) -> bool:
        """Whether the supervisor is gone."""
        return self.process.returncode is not None

    async def ended(self) -> int:
        """Wait for the end; return the exit code."""
        process = self.process
        if self._store is not None:
            self._store.close()
            self._store = None
        async with asyncio.timeout(PATIENCE_S):
            code = await process.wait()
        self._process = None
        return code

    # What it says...

    @property
    def log_text(self) -> str:
        """Everything that was logged."""
        return self._log.read_text() if self._log.exists() else ""

    def log_events(self, name: str = "", **fields: object) -> list[dict[str, Any]]:
        """Return the log lines of one event, with these fields."""
        return [
            line
            for line in self._log_lines()
            if (not name or line["event"] == name)
            and all(line.get(field) == value for field, value in fields.items())
        ]

    def _log_lines(self) -> Iterator[dict[str, Any]]:
        for text in self.log_text.splitlines(keepends=True):
            if text.startswith("{") and text.endswith("\n"):
                yield json.loads(text)

    # The data plane...

    def client(self, **options: Any) -> httpx.AsyncClient:
        """Return a client of the data plane; close it."""
        return httpx.AsyncClient(base_url=self.url, timeout=PATIENCE_S, trust_env=False, **options)

    # The admin plane...

    async def admin(self, method: str, path: str, json: Any = None) -> httpx.Response:
        """Ask the admin plane, with its token."""
        async with httpx.AsyncClient(
            base_url=self.admin_url, timeout=PATIENCE_S, trust_env=False
        ) as client:
            return await client.request(
                method, path, json=json, headers={"authorization": f"Bearer {self.token}"}
            )

    async def override(self, task: str, **fields: Any) -> httpx.Response:
        """Ask for an override."""
        said = {"approver": "ann", "reason": "nearly done", **fields}
        return await self.admin("POST", f"/admin/v1/tasks/{task}/overrides", said)

    async def ready(self) -> dict[str, Any]:
        """Return what `/readyz` says."""
        found: dict[str, Any] = (await self.admin("GET", "/readyz")).json()
        return found

    async def metric(self, name: str, **labels: str) -> int:
        """Return the sum of a counter's series that have these labels."""
        total = 0.0
        for line in (await self.admin("GET", "/metrics")).text.splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == name and all(
                f'{label}="{wanted}"' in series for label, wanted in labels.items()
            ):
                total += float(value)
        return int(total)

    async def until_metric(self, count: int, name: str, **labels: str) -> None:
        """Wait for a counter to reach a value; workers report once a second."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_S
        while (seen := await self.metric(name, **labels)) < count:
            assert loop.time() < deadline, (name, labels, seen)
            await asyncio.sleep(0.1)
        assert seen == count, (name, labels, seen)

    # The store, by a client that shares no code with the gateway...

    @property
    def store(self) -> redis.Redis:
        """A client of the embedded store."""
        if self._store is None:
            path = EmbeddedStore(self.state_dir).socket_path
            self._store = redis.Redis(unix_socket_path=path, decode_responses=True)
        return self._store

    @property
    def store_url(self) -> str:
        """Where another gateway finds the embedded store."""
        return EmbeddedStore(self.state_dir).url

    @property
    def keys(self) -> TenantKeys:
        """The keys of the default tenant."""
        return TenantKeys("default")

    def task(self, task: str) -> dict[str, str]:
        """Return everything in a task's hash."""
        return self.store.hgetall(self.keys.task(task))

    def number(self, task: str, field: str) -> int:
        """Return one number of a task's hash; 0 if it is not there."""
        return int(self.store.hget(self.keys.task(task), field) or 0)

    def held(self, task: str, scope: str = "") -> tuple[int, int, int, int]:
        """Return tokens, nano-dollars and calls held, and calls in flight."""
        fields = ("tokens.H", "nano_usd.H", "calls.H", "inflight")
        found = self.store.hmget(self.keys.task(task), [scope + field for field in fields])
        tokens, nano_usd, calls, inflight = (int(value or 0) for value in found)
        return tokens, nano_usd, calls, inflight

    async def settled(self, task: str, calls: int | None = None) -> dict[str, str]:
        """Wait until no call of a task is open, and `calls` are settled; return the hash."""

        def is_settled() -> dict[str, str] | None:
            fields = self.task(task)
            if int(fields.get("inflight") or 0) or int(fields.get("calls.H") or 0):
                return None
            if calls is not None and int(fields.get("calls.S") or 0) < calls:
                return None
            return fields

        fields: dict[str, str] = await until(is_settled, f"the end of {task}'s calls")
        if calls is not None:
            assert int(fields.get("calls.S") or 0) == calls
        return fields


class MeasuredGateway(Gateway):
    """A gateway as it is by default, whose processes tell which of their lines ran."""

    is_measured = True
