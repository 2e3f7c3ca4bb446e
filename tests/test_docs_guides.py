"""The guides are true: links resolve, commands and their options exist, examples are what they say."""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from gateway.backtest_cli import backtest
from gateway.calibrate_cli import calibrate
from gateway.cli import tollgate
from gateway.core.budget import TaskProfile, task_limits
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.rule_files import DEFAULT_PHASE_BUDGETS

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs/autopilot/budgets"
GUIDES = [FOLDER / f"{name}.md" for name in ("USER_GUIDE", "DEVELOPER_GUIDE", "TROUBLESHOOTING")]
LATER = {"calibrate": calibrate, "backtest": backtest}  # imported when they are called
BLOCK = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    texts = (page.read_text() for page in GUIDES)
    return [block for text in texts for name, block in BLOCK.findall(text) if name == language]


def commands() -> Iterator[list[str]]:
    for block in blocks("sh"):
        for line in block.replace("\\\n", " ").splitlines():
            yield shlex.split(line)
    for page in GUIDES:
        for line in re.findall(r"`(tollgate [^`]*)`", BLOCK.sub("", page.read_text())):
            yield shlex.split(line)


def headings(page: Path) -> set[str]:
    found = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in found}


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_links_resolve_with_their_headings(page: Path) -> None:
    """DOC-1."""
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        file, _, heading = target.partition("#")
        found = (page.parent / file).resolve()
        assert found.exists(), target
        assert not heading or heading in headings(found), target


def test_every_command_and_option_exists() -> None:
    """As `tollgate` would parse them."""
    seen = set()
    for words in commands():
        if words[0] == "tollgate":
            seen.add(words[1])
            check(words[1:])
    assert {"tasks", "calibrate", "backtest", "ledger", "breaches", "enforcement"} <= seen


def check(words: list[str]) -> None:
    command: click.Command = tollgate
    path = ["tollgate"]
    rest = list(words)
    while isinstance(command, click.Group) and rest:
        context = click.Context(command)
        found = LATER.get(rest[0]) or command.get_command(context, rest[0])
        assert found is not None, words
        command, path = found, [*path, rest.pop(0)]
    if rest:
        with command.make_context(" ".join(path), rest, resilient_parsing=False) as context:
            assert context.command is command


def test_other_commands_are_make_s_and_curl_s() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for words in commands():
        if words[0] == "make":
            assert f"\n{words[1]}:" in makefile, words
        elif words[0] == "curl":
            body = words[words.index("-d") + 1] if "-d" in words else "{}"
            assert isinstance(json.loads(body), dict)
        else:
            assert words[0] == "tollgate", words


def test_python_is_python() -> None:
    assert blocks("python")
    for block in blocks("python"):
        ast.parse(block)


def test_golden_values_are_those_of_the_calculation() -> None:
    """CAL-3."""
    rows = re.findall(
        r"^\| (\w+) \| (\w+) \| ([A-Z]+) \| ([\d,]+) \| ([\d,]+) ms \|$",
        (FOLDER / "USER_GUIDE.md").read_text(),
        re.MULTILINE,
    )
    assert len(rows) == 5
    for complexity, importance, phase, tokens, latency in rows:
        profile = TaskProfile(Complexity(complexity), ImportanceTier(importance))
        limits = task_limits(DEFAULT_PHASE_BUDGETS, profile).budgets[WorkPhase(phase)].limits
        told = (int(tokens.replace(",", "")), int(latency.replace(",", "")))
        assert (limits.tokens, limits.latency_ms) == told


def test_troubleshooting_has_every_trouble() -> None:
    text = (FOLDER / "TROUBLESHOOTING.md").read_text().lower()
    for trouble in (
        *("estimated tokens", "should not have been", "too tight", "slow", "the log is"),
        *("calibrate", "stuck in a phase", "where to look"),
    ):
        assert trouble in text
