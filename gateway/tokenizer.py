"""Token counts for a worker, from a process beside it that is started when it is first asked.

Counting needs tiktoken with an encoding in memory: 80 MB, and a quarter of a second in which
nothing else could run in the same process. Most workers never need a count.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from subprocess import Popen, TimeoutExpired

import msgspec

from gateway.core.identity import Dialect

LENGTH_BYTES = 4  # in front of a question
ANSWER_BYTES = 8
UNCOUNTED = -1
_CHARS_PER_TOKEN = 4
_DEADLINE_S = 10.0
_CLOSE_WAIT_S = 2.0
_NICE = 5
_COMMAND = (sys.executable, "-m", "gateway.token_count")


class Question(msgspec.Struct, array_like=True):
    """How many tokens `body` has: a request of a dialect, or a text in UTF-8 if that is None."""

    model: str
    dialect: Dialect | None
    body: bytes


class CountingProcess:
    """A process that counts, and the connection that is its standard input and output.

    It is started by `Popen`, which need not copy the worker's memory map and returns in a
    millisecond: with asyncio's own way the loop stood still for some five.
    """

    def __init__(self, command: Sequence[str]) -> None:
        """Start it. Raises OSError if that cannot be done."""
        self._ours, theirs = socket.socketpair()
        self._ours.setblocking(False)
        try:
            with theirs:
                self._process = Popen(command, stdin=theirs.fileno(), stdout=theirs.fileno())
        except OSError:
            self._ours.close()
            raise
        with suppress(OSError):  # others wait for the worker, and one for a count
            os.setpriority(os.PRIO_PROCESS, self._process.pid, _NICE)

    @property
    def exit_code(self) -> int | None:
        """None as long as it has not been waited for."""
        return self._process.returncode

    async def ask(self, framed: bytes) -> bytes:
        """Return the answer to a question. Raises OSError without one."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._ours, framed)
        answer = b""
        while len(answer) < ANSWER_BYTES:
            received = await loop.sock_recv(self._ours, ANSWER_BYTES - len(answer))
            if not received:
                raise ConnectionResetError
            answer += received
        return answer

    def hang_up(self) -> None:
        """Say that there will be no further question: it then ends."""
        with suppress(OSError):  # it has ended
            self._ours.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    async def wait(self, timeout_s: float | None = None) -> None:
        """Return once it has ended. Raises subprocess.TimeoutExpired."""
        await asyncio.to_thread(self._process.wait, timeout_s)

    async def bury(self) -> None:
        """Return once it has ended and nothing is left of it; nobody asks it any more."""
        await self.wait()
        self._ours.close()


class TiktokenCounter:
    """ports.Tokenizer. One question at a time; a process that fails is replaced at the next."""

    def __init__(
        self,
        command: Sequence[str] = _COMMAND,
        *,
        deadline_s: float = _DEADLINE_S,
        close_wait_s: float = _CLOSE_WAIT_S,
    ) -> None:
        self._command = command
        self._deadline_s = deadline_s
        self._close_wait_s = close_wait_s
        self._process: CountingProcess | None = None
        self._left: list[CountingProcess] = []
        self._is_closed = False
        self._turn = asyncio.Lock()

    async def count(self, model: str, texts: Sequence[str]) -> int:
        """Return the tokens of all texts; ceil(chars / 4) where they cannot be counted."""
        whole = "".join(texts)
        if not whole:
            return 0
        counted = await self._ask(Question(model, None, whole.encode("utf-8", "replace")))
        return -(-len(whole) // _CHARS_PER_TOKEN) if counted is None else counted

    async def count_request(self, model: str, dialect: Dialect, body: bytes) -> int | None:
        """Return the tokens of a request's text with its frame; None if they cannot be counted."""
        return await self._ask(Question(model, dialect, body))

    async def close(self) -> None:
        """End the process, if there is one. Nothing is counted any more."""
        self._is_closed = True
        if (process := self._process) is not None:
            process.hang_up()
            try:
                await process.wait(self._close_wait_s)
            except TimeoutExpired:
                process.kill()
        async with self._turn:  # who still asked has heard that it ended
            if self._process is not None:
                self._left.append(self._process)
            self._process = None
            await self._bury()

    async def _ask(self, question: Question) -> int | None:
        encoded = msgspec.msgpack.encode(question)
        framed = len(encoded).to_bytes(LENGTH_BYTES, "big") + encoded
        try:
            async with asyncio.timeout(self._deadline_s), self._turn:
                answer = await self._exchange(framed)
                if answer is None:  # it had ended, or died of it: once more, to a new one
                    answer = await self._exchange(framed)
                return answer if answer != UNCOUNTED else None
        except TimeoutError:
            return None

    async def _exchange(self, framed: bytes) -> int | None:
        """Return a new or running process's answer; None if it ends without one."""
        await self._bury()
        if self._is_closed:
            return None
        answered = False
        try:
            process = self._process = self._process or CountingProcess(self._command)
            answer = await process.ask(framed)
            answered = True
            return int.from_bytes(answer, "big", signed=True)
        except OSError:
            return None
        finally:
            if not answered and self._process is not None:
                # What it might still say belongs to no question.
                self._process.kill()
                self._left.append(self._process)
                self._process = None

    async def _bury(self) -> None:
        """Wait for those that were killed; that takes no time."""
        while self._left:
            await self._left.pop().bury()
