"""`make demo`: a task is metered, stopped and freed again, before your eyes.

The agent is a script over the real openai SDK; the provider is a fake one, so nothing leaves this
machine and nothing costs anything.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvloop
from openai import APIStatusError, AsyncOpenAI, DefaultAsyncHttpxClient, OpenAIError
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionMessageParam

from gateway.admin_client import AdminClient, AdminError
from loadtest.narrator import Narrator
from loadtest.programs import (
    Gateway,
    ProgramError,
    Provider,
    end_on_signals,
    fake_provider,
    gateway,
)
from loadtest.provider_client import read_totals

TASK = "fix-flaky-test"
_MODEL = "gpt-4o"
_GRANT_TOKENS = 10_000
_MOST_ATTEMPTS = 12
_SETTLE_TRIES, _SETTLE_S = 20, 0.1
_REASON = "the fix is nearly there"
_TTFB_MS = 60  # a calm, visible pace


@dataclass(frozen=True)
class Step:
    """One call of the agent, and what the fake provider is to count for it."""

    phase: str
    doing: str
    prompt_tokens: int
    completion_tokens: int
    stream: bool = False


_WORK = (
    Step("STRATEGIZE", "reads the ticket", 1_500, 300),
    Step("STRATEGIZE", "weighs two approaches", 1_900, 400, stream=True),
    Step("SPEC", "writes down what done means", 1_000, 350),
    Step("PLAN", "splits the work", 1_600, 500),
    Step("THINK", "studies the failure", 2_600, 500, stream=True),
    Step("THINK", "suspects a race", 2_100, 400),
    Step("IMPLEMENT", "changes the lock", 1_900, 700, stream=True),
    Step("IMPLEMENT", "changes the callers", 2_000, 600),
)
_REST = (
    Step("VERIFY", "runs the tests: they pass", 2_400, 300),
    Step("REVIEW", "reads its own change", 1_700, 250, stream=True),
    Step("PR", "writes the pull request", 900, 150),
)


def _attempts() -> Iterator[Step]:
    """The loop in which agents burn money: the tests fail, so it sends the log once more."""
    for number in range(1, _MOST_ATTEMPTS + 1):
        yield Step("VERIFY", f"tests fail, fixes, try {number}", 3_000, 600, stream=number == 2)


class Agent:
    """An agent as they are: it has a base URL and a header, and knows nothing of budgets."""

    def __init__(self, base_url: str, narrator: Narrator) -> None:
        self.requests_made = 0
        self._narrator = narrator
        self._sdk = AsyncOpenAI(
            base_url=f"{base_url}/v1",
            api_key="sk-demo",
            default_headers={"X-Task-Id": TASK},
            http_client=DefaultAsyncHttpxClient(event_hooks={"request": [self._count]}),
        )

    async def _count(self, _: httpx.Request) -> None:
        self.requests_made += 1

    async def close(self) -> None:
        """Close the SDK's connections."""
        await self._sdk.close()

    async def work(self, step: Step) -> None:
        """Make one call. Raises APIStatusError, as the SDK does."""
        headers = {
            "X-Task-Phase": step.phase,
            "x-fake-prompt-tokens": str(step.prompt_tokens),
            "x-fake-completion-tokens": str(step.completion_tokens),
        }
        try:
            if step.stream:
                told, usage = await self._streamed(step, headers)
            else:
                told, usage = await self._asked(step, headers)
        except APIStatusError as error:
            self._narrator.call(step.phase, step.doing, "-", error.response.headers)
            raise
        tokens = f"{usage.prompt_tokens:,} + {usage.completion_tokens:,}" if usage else "?"
        doing = f"{step.doing} (stream)" if step.stream else step.doing
        self._narrator.call(step.phase, doing, tokens, told)

    async def _asked(
        self, step: Step, headers: Mapping[str, str]
    ) -> tuple[httpx.Headers, CompletionUsage | None]:
        raw = await self._sdk.chat.completions.with_raw_response.create(
            model=_MODEL, messages=_messages(step), extra_headers=headers
        )
        return raw.headers, raw.parse().usage

    async def _streamed(
        self, step: Step, headers: Mapping[str, str]
    ) -> tuple[httpx.Headers, CompletionUsage | None]:
        raw = await self._sdk.chat.completions.with_raw_response.create(
            model=_MODEL,
            messages=_messages(step),
            stream=True,
            stream_options={"include_usage": True},
            extra_headers=headers,
        )
        usage = None
        async for chunk in raw.parse():
            usage = chunk.usage or usage
        return raw.headers, usage


def _messages(step: Step) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": f"The agent {step.doing}."}]


class Demo:
    """The story: work, the stop, what an operator sees, the grant, the end."""

    def __init__(self, provider: Provider, running: Gateway, narrator: Narrator) -> None:
        self._provider = provider
        self._admin = AdminClient(running.admin_url, running.token)
        self._agent = Agent(running.base_url, narrator)
        self._narrator = narrator
        self._gateway = running
        self._before = 0, 0  # requests made and calls served, before the call at hand

    async def tell(self) -> int:
        """Tell it all; return the exit code."""
        try:
            self._introduce()
            refusal = await self._work_until_refused()
            if refusal is None:
                self._narrator.say("Nothing was refused: these budgets are larger than the demo's.")
                return 1
            self._show_refusal(refusal)
            self._show_task()
            self._grant()
            await self._go_on()
            return await self._conclude()
        finally:
            await self._agent.close()

    def _introduce(self) -> None:
        tell = self._narrator
        tell.say("A gateway in enforce mode stands before a fake provider; nothing leaves this")
        tell.say("machine. The agent is the openai SDK with two settings:")
        tell.say(f"  base_url={self._gateway.base_url}/v1")
        tell.say(f"  header X-Task-Id: {TASK}    (and X-Task-Phase with each call)")

    async def _work_until_refused(self) -> APIStatusError | None:
        tell = self._narrator
        tell.title("The agent works. What the gateway decides, it says in each answer's headers:")
        tell.say("  allow; flag: made all the same, but a phase is far over its limit; refuse.")
        tell.call_head()
        for step in (*_WORK, *_attempts()):
            self._before = self._agent.requests_made, read_totals(self._provider).calls
            try:
                await self._agent.work(step)
            except APIStatusError as error:
                return error
        return None

    def _show_refusal(self, error: APIStatusError) -> None:
        tell = self._narrator
        made = self._agent.requests_made - self._before[0]
        reached = read_totals(self._provider).calls - self._before[1]
        tell.title("The stop-loss refused that call. This is what the agent got:")
        tell.quote("exception", f"openai.{type(error).__name__}")
        tell.quote("status", str(error.status_code))
        tell.quote("code", str(error.code))
        tell.quote("type", str(error.type))
        body = error.body
        tell.quote("message", str(body.get("message") if isinstance(body, dict) else error))
        retried = "nothing was retried" if made == 1 else "it was retried"
        tell.quote("requests", f"{made} by the SDK: {retried}; {reached} reached the provider")

    def _show_task(self) -> None:
        task = self._admin.task(TASK)
        tokens, stop = task["totals"]["tokens"], task["stop_loss"]
        tell = self._narrator
        tell.title(f"What an operator sees: GET /admin/v1/tasks/{TASK}")
        tell.task(task)
        tell.say(f"  From VERIFY on it may use {tokens['line']:,} tokens. Now it is stopped in all")
        tell.say(f"  phases until an operator decides (remediation: {stop['remediation']}).")

    def _grant(self) -> None:
        tell = self._narrator
        grant = {"kind": "grant", "tokens": _GRANT_TOKENS, "approver": "ada", "reason": _REASON}
        answer = self._admin.override(TASK, **grant)
        tokens = answer["task"]["totals"]["tokens"]
        tell.title(f"The operator grants more: POST /admin/v1/tasks/{TASK}/overrides")
        tell.quote("body", json.dumps(grant))
        state = answer["task"]["stop_loss"]["state"]
        line, used = tokens["line"], tokens["used"]
        tell.quote("answer", f"{state}: {used:,} are used of {line:,} that it may use now")

    async def _go_on(self) -> None:
        self._narrator.title("The agent asks again, and nobody had to restart it.")
        self._narrator.call_head()
        for step in _REST:
            await self._agent.work(step)

    async def _conclude(self) -> int:
        totals = read_totals(self._provider)
        billed = totals.prompt_tokens + totals.completion_tokens
        used = await self._used_tokens(billed)
        calls, verdict = totals.calls, "the same" if used == billed else f"{used:,}"
        tell = self._narrator
        tell.title("Done.")
        tell.say(f"The provider billed {billed:,} tokens in {calls} calls, we counted {verdict}.")
        tell.say("For your own agents: make run, then set OPENAI_BASE_URL and X-Task-Id.")
        return 0 if used == billed else 1

    async def _used_tokens(self, expected: int) -> int:
        """Return what the task has used; the last call is settled a moment after its answer."""
        used = 0
        for _ in range(_SETTLE_TRIES):
            used = self._admin.task(TASK)["totals"]["tokens"]["used"]
            if used == expected:
                break
            await asyncio.sleep(_SETTLE_S)
        return used


async def tell(narrator: Narrator, folder: Path, ttfb_ms: int) -> int:
    """Start what the demo needs, tell it, and stop everything."""
    told_to_end = end_on_signals()
    script = json.dumps({"prompt_tokens": 10, "ttfb_ms": ttfb_ms, "chunk_delay_ms": 1})
    narrator.title("Tollgate: one agent, one task, one budget")
    async with (
        fake_provider(folder, "--script", script) as provider,
        gateway(folder, provider, {"POLICIES__MODE": "enforce"}) as running,
    ):
        code = await Demo(provider, running, narrator).tell()
        if told_to_end.is_set():  # a library below may have kept the cancellation to itself
            raise asyncio.CancelledError
        return code


def main() -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description="Watch a task being stopped.")
    parser.add_argument(
        "--ttfb-ms", type=int, default=_TTFB_MS, help="how long the provider takes to answer"
    )
    ttfb_ms = parser.parse_args().ttfb_ms
    try:
        with tempfile.TemporaryDirectory(prefix="tollgate-demo-") as folder:
            return uvloop.run(tell(Narrator(), Path(folder), ttfb_ms))
    except (ProgramError, AdminError, OpenAIError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130


if __name__ == "__main__":
    sys.exit(main())
