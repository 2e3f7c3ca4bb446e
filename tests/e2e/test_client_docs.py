"""What the pages of docs/clients tell users to type works, and a refusal reads as they say."""

import asyncio
import os
import re
import shutil
import sys
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


def command(language: str) -> tuple[str, ...]:
    """Return what runs a snippet from its standard input."""
    if language == "python":
        return sys.executable, "-"
    program = shutil.which({"js": "node", "sh": "bash"}[language])
    assert program, f"{language} snippets need a program that is not installed"
    return (program, "--input-type=module", "-") if language == "js" else (program, "-eu")


async def run(snippet: Snippet, url: str, task: str) -> str:
    """Run a snippet as a user does, with the pages' variables set; return what it prints."""
    process = await asyncio.create_subprocess_exec(
        *command(snippet.language),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=NODE,
        env={
            "PATH": os.environ["PATH"],
            "OPENAI_BASE_URL": f"{url}/v1",
            "OPENAI_API_KEY": "sk-test",
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_API_KEY": "sk-ant-test",
            "GOOGLE_GEMINI_BASE_URL": url,
            "GEMINI_API_KEY": "test",
            "LITELLM_LOCAL_MODEL_COST_MAP": "true",
        },
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            output, _ = await process.communicate(snippet.text.replace(TASK, task).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    return output.decode()


@pytest.mark.parametrize("snippet", snippets(), ids=str)
async def test_a_snippet_calls_and_reads_its_refusal(
    enforcing: Gateway, provider: FakeProvider, task: str, snippet: Snippet
) -> None:
    """A first call under the page's task and phase; the next is refused by one request."""
    provider.script(lambda _: SPENT)
    printed = await run(snippet, enforcing.url, task)
    assert printed.strip()
    fields = await enforcing.settled(task)
    assert fields["phase"] == PHASE
    served = len(provider.journal)
    assert int(fields["calls.S"]) == served >= 1
    refused_at_once = snippet.calls - served  # by a snippet that calls more than once

    refusal = await run(snippet, enforcing.url, task)
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
