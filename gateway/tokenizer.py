"""Token counts for a worker, from a process beside it that is started when it is first asked.

Counting needs tiktoken with an encoding in memory: 80 MB, and a quarter of a second in which
nothing else could run in the same process. Most workers never need a count.
"""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence

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
        self._process: Process | None = None
        self._killed: list[Process] = []
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
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            _hang_up(process)
            try:
                async with asyncio.timeout(self._close_wait_s):
                    await process.wait()
            except TimeoutError:
                self._killed.append(process)
                process.kill()
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
        answered = False
        try:
            process = self._process = self._process or await self._start()
            if process.stdin is None or process.stdout is None:
                return None
            process.stdin.write(framed)
            answer = await process.stdout.readexactly(ANSWER_BYTES)
            answered = True
            return int.from_bytes(answer, "big", signed=True)
        except (OSError, asyncio.IncompleteReadError):
            return None
        finally:
            if not answered:
                self._drop()

    async def _start(self) -> Process:
        await self._bury()
        return await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, preexec_fn=_give_way
        )

    def _drop(self) -> None:
        """Leave a process that did not answer; what it might still say belongs to no question."""
        process, self._process = self._process, None
        if process is not None:
            _hang_up(process)
            if process.returncode is None:
                process.kill()
            self._killed.append(process)

    async def _bury(self) -> None:
        """Wait for those that were killed; that takes no time."""
        while self._killed:
            await self._killed.pop().wait()


def _give_way() -> None:
    """Let the worker go first where both want one core: others wait for it, one for a count."""
    os.nice(_NICE)


def _hang_up(process: Process) -> None:
    """Say that there will be no further question."""
    if process.stdin is not None:
        process.stdin.close()
