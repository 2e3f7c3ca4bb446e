"""What the pages of docs/clients tell users to type works, and a refusal reads as they say."""

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE
from dataclasses import dataclass

import pytest

from loadtest.fake_provider import FakeProvider, Script
from tests.e2e.running_gateway import PATIENCE_S, ROOT, Gateway, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAGES = ROOT / "docs/clients"
NODE = ROOT / "tests/node"  # where npm's clients are installed
SPENT = Script(prompt_tokens=60_000)
TASK, PHASE = "my-task", "VERIFY"  # as the pages say

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_END = b"\n--\n"
_PYTHON = "import sys\nfor _ in sys.stdin: exec(sys.argv[1], {}); print('\\n--', flush=True)"
_SHELL = r"while read -r; do {}; printf '\n--\n'; done"
_COMMANDS = {
    "python": (sys.executable, "-c", _PYTHON),
    "js": ("bash", "-euc", _SHELL.format('node --input-type=module -e "$1" </dev/null'), "-"),
    "sh": ("bash", "-euc", _SHELL.format('eval "$1"'), "-"),
}
_NOT_HERE = {"langchain.md", "openai-agents.md"}  # clients that the tests do not install


@dataclass(frozen=True)
class Snippet:
    """One block of a page. `calls` are the calls that it makes."""

    page: str
    language: str
    text: str
    number: int

    @property
    def calls(self) -> int:
        return 2 if self.page == "litellm.md" else 1

    def __str__(self) -> str:
        return f"{self.page}-{self.language}-{self.number}"


def snippets() -> list[Snippet]:
    """Return the blocks that can be run as they stand."""
    return [
        Snippet(page.name, language, text, number)
        for page in sorted(PAGES.glob("*.md"))
        if page.name not in _NOT_HERE
        for number, (language, text) in enumerate(_BLOCK.findall(page.read_text()))
        if language in {"python", "js"} or (language == "sh" and "\ncurl " in f"\n{text}")
    ]


class Running:
    """A process that runs a snippet once for every line that it reads. Use as a context manager.

    Its clients are imported once, for that takes longer than all calls together.
    """

    def __init__(self, snippet: Snippet, url: str, task: str) -> None:
        self._command = (*_COMMANDS[snippet.language], snippet.text.replace(TASK, task))
        self._environment = {
            "PATH": os.environ["PATH"],
            "OPENAI_BASE_URL": f"{url}/v1",
            "OPENAI_API_KEY": "sk-test",
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_API_KEY": "sk-ant-test",
            "GOOGLE_GEMINI_BASE_URL": url,
            "GEMINI_API_KEY": "test",
            "LITELLM_LOCAL_MODEL_COST_MAP": "true",
        }

    async def __aenter__(self) -> "Running":
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, cwd=NODE, env=self._environment
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def once(self) -> str:
        """Run the snippet to its end; return what it prints."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(b"\n")
        async with asyncio.timeout(2 * PATIENCE_S):
            output = await self._process.stdout.readuntil(_END)
        return output.removesuffix(_END).decode().strip()


@pytest.mark.trial
@pytest.mark.parametrize("snippet", snippets(), ids=str)
async def test_a_snippet_calls_and_reads_its_refusal(
    enforcing: Gateway, provider: FakeProvider, task: str, snippet: Snippet
) -> None:
    """A first call under the page's task and phase; the next is refused by one request."""
    provider.script(lambda _: SPENT)
    async with Running(snippet, enforcing.url, task) as running:
        assert await running.once()
        fields = await enforcing.settled(task)
        assert fields["phase"] == PHASE
        served = len(provider.journal)
        assert int(fields["calls.S"]) == served >= 1
        refused_at_once = snippet.calls - served  # by a snippet that calls more than once

        refusal = await running.once()
        assert refusal.count(f"Task {task} exceeded token budget") == snippet.calls
        assert len(provider.journal) == served
        refusals = snippet.calls + refused_at_once
        await until(
            lambda: len(enforcing.log_events("call", task=task, status=400)) >= refusals, "the log"
        )
        assert len(enforcing.log_events("call", task=task, status=400)) == refusals


async def test_every_page_is_in_the_table() -> None:
    """The table names every page, and no language is left out by mistake."""
    table = (PAGES / "README.md").read_text()
    pages = {page.name for page in PAGES.glob("*.md")} - {"README.md"}
    assert {page for page in pages if f"]({page})" not in table} == set()
    assert {snippet.language for snippet in snippets()} == {"python", "js", "sh"}
