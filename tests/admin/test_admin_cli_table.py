"""The table of commands against the API's description, `docs/cli.md` and hostile answers."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from gateway.admin.api import ALL_ENDPOINTS
from gateway.admin.examples import body_example
from gateway.admin.openapi import document
from gateway.admin_cli.commands import command_of
from gateway.admin_cli.operation import Operation, Rows
from gateway.admin_cli.operations import OPERATIONS
from gateway.admin_cli.terminal_text import lines, one_line
from gateway.admin_cli.views import show
from gateway.cli import tollgate

ROOT = Path(__file__).parents[2]
WITHOUT_COMMAND = {
    "getLiveness": "whether the process lives is asked by what restarts it",
    "getMetrics": "Prometheus asks for them",
    "getOpenApi": "for programs that make clients",
}
DESCRIBED = {
    operation["operationId"]: (method.upper(), path, operation)
    for path, methods in document(ALL_ENDPOINTS, "1")["paths"].items()
    for method, operation in methods.items()
}
SCHEMAS = document(ALL_ENDPOINTS, "1")["components"]["schemas"]
PAGING = {"limit", "cursor"}
each_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.command)


def test_every_operation_has_a_command() -> None:
    """But for those with a reason."""
    commanded = {operation.operation_id for operation in OPERATIONS}
    assert commanded | set(WITHOUT_COMMAND) == set(DESCRIBED)
    assert not commanded & set(WITHOUT_COMMAND)


@each_operation
def test_it_asks_what_is_served(operation: Operation) -> None:
    """The same method and path, with all that the path names."""
    method, path, described = DESCRIBED[operation.operation_id]
    assert (operation.method, operation.path) == (method, path)
    named = set(re.findall(r"{(\w+)}", path))
    arguments = {each.name for each in operation.parameters if isinstance(each, click.Argument)}
    assert named <= arguments
    assert operation.public == (described["security"] == [])


@pytest.mark.parametrize("name", sorted({each.operation_id for each in OPERATIONS}))
def test_all_that_it_takes_can_be_said(name: str) -> None:
    """Each parameter of the query and member of the body, by one command of the operation."""
    _, _, described = DESCRIBED[name]
    said = {
        str(part).partition("__")[0]
        for operation in OPERATIONS
        if operation.operation_id == name
        for part in (
            *(parameter.name for parameter in operation.parameters),
            *operation.fixed,
            *(PAGING if operation.paged else ()),
            *(("format",) if operation.text_form else ()),
        )
    }
    parameters = {each["name"] for each in described["parameters"]}
    assert said == parameters | members_of(described)


def members_of(described: Any) -> set[str]:
    if "requestBody" not in described:
        return set()
    schema = described["requestBody"]["content"]["application/json"]["schema"]
    models = [SCHEMAS[part["$ref"].rpartition("/")[2]] for part in schema.get("oneOf", [])]
    if "$ref" in schema:
        models = [SCHEMAS[schema["$ref"].rpartition("/")[2]]]
    return {name for model in models or [schema] for name in model["properties"]}


@each_operation
def test_it_is_reached_from_the_top(operation: Operation) -> None:
    found: click.Command = tollgate
    for word in operation.command.split():
        assert isinstance(found, click.Group)
        below = found.get_command(click.Context(found), word)
        assert below is not None, operation.command
        found = below
    assert found.help == operation.help


@pytest.mark.parametrize(
    "words",
    [
        ("tasks", "show", "a\udcff"),
        ("tasks", "list", "--cursor", "\udcff"),
        ("sessions", "unbind", "s", "--reason", "\udcff"),
        ("tasks", "grant", "T", "--usd", "1e99999999999999", "--reason", "x"),
        ("tasks", "grant", "T", "--usd", "1e-99999999999999", "--reason", "x"),
    ],
    ids=ascii,
)
def test_what_no_request_can_carry_is_a_wrong_command_line(words: tuple[str, ...]) -> None:
    """Bytes that are no text, numbers of more digits than memory: nothing is asked, exit code 2."""
    nobody = ["--url", "http://127.0.0.1:1", "--token", "x"]
    ended = CliRunner().invoke(tollgate, [*words, *nobody])
    assert ended.exit_code == 2, ended.output
    assert "Error: " in ended.stderr


# What is shown -----------------------------------------------------------------------------------

HOSTILE = "\x1b[2J\x07\u202e[red]\r\n\x9b"


def poisoned(value: Any) -> Any:
    """An answer in which every text that people choose has control characters and markup."""
    if isinstance(value, str):
        return value + HOSTILE
    if isinstance(value, list):
        return [poisoned(each) for each in value]
    if isinstance(value, dict):
        return {name: poisoned(each) for name, each in value.items()}
    return value


def answer_of(operation: Operation) -> Any:
    """The documented example of the operation's answer."""
    (endpoint,) = (each for each in ALL_ENDPOINTS if each.name == operation.operation_id)
    if endpoint.body is None:
        return {"event": "breach", "level": "info", "task": "IMP-COST-01"}
    return body_example(endpoint.body, endpoint.status)


@each_operation
def test_an_answer_is_shown_and_nothing_of_it_raw(
    operation: Operation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The documented answer as it is, and with what a caller may have put into names."""
    monkeypatch.setenv("COLUMNS", "400")
    for answer in (answer_of(operation), poisoned(answer_of(operation))):
        show(operation.view, answer, {"id": f"T{HOSTILE}"})
        shown = capsys.readouterr().out
        assert shown.strip()
        assert [each for each in shown if not each.isprintable() and each != "\n"] == []
    if isinstance(operation.view, Rows):
        show(operation.view, {operation.view.member: []}, {})
        assert capsys.readouterr().out == "none\n"
        (row,) = answer_of(operation)[operation.view.member]
        assert set(operation.view.columns) <= set(row)


def test_what_is_piped_on_has_a_line_for_each_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An id that is broken over lines is found by no grep, and cannot be copied."""
    monkeypatch.delenv("COLUMNS", raising=False)
    (operation,) = (each for each in OPERATIONS if each.command == "breaches list")
    (row,) = answer_of(operation)["breaches"]
    show(operation.view, answer_of(operation), {})
    (shown,) = (line for line in capsys.readouterr().out.splitlines() if row["call"] in line)
    assert all(row[name] in shown for name in ("at", "task", "phase", "code"))


@pytest.mark.parametrize("command", ["tasks list", "tasks show", "tasks phases"])
def test_a_narrow_terminal_leaves_nothing_out(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    (operation,) = (each for each in OPERATIONS if each.command == command)
    show(operation.view, answer_of(operation), {})
    assert "…" not in capsys.readouterr().out


def test_what_a_changed_task_is_shown_without(capsys: pytest.CaptureFixture[str]) -> None:
    """The store did not answer any more: what was done is said all the same."""
    show("changed", {"state": "killed", "changed": True, "task": None}, {"id": "T"})
    out = capsys.readouterr().out
    assert out == "state killed, changed yes\nT: done; the store does not answer to show it\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("T-1 ä [red]", "T-1 ä [red]"),
        ("a\x1b]0;t\x07b", r"a\x1b]0;t\x07b"),
        ("a\nb\u202ec", r"a\nb\u202ec"),
        ("\ud800\x7f\x9b", r"\ud800\x7f\x9b"),
    ],
)
def test_a_name_is_one_harmless_line(text: str, shown: str) -> None:
    assert one_line(text) == shown


def test_a_report_keeps_its_lines() -> None:
    assert lines("# a\n\tb\x1bc\n") == "# a\n    b\\x1bc\n"


# The page ----------------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "cli.md").read_text()


def section_of(operation: Operation) -> str:
    _, found, rest = PAGE.partition(f"\n### tollgate {operation.command}\n")
    assert found, f"docs/cli.md has no heading `### tollgate {operation.command}`"
    return re.split(r"\n##+ ", rest)[0]


@each_operation
def test_the_page_tells_what_help_tells(operation: Operation) -> None:
    """What it does, each argument and option of its own, and an example that is one."""
    section = section_of(operation)
    assert operation.help in section
    shared = {"--config", "--url", "--token", "--json"}
    flags = {flag for each in command_of(operation).params for flag in each.opts if "--" in flag}
    assert flags - shared == set(re.findall(r"^- `(--[\w-]+)", section, flags=re.MULTILINE))
    (example,) = re.findall(r"^```sh\ntollgate (.*)\n```$", section, flags=re.MULTILINE)
    words = shlex.split(example)
    head = operation.command.split()
    assert words[: len(head)] == head
    command_of(operation).make_context(operation.verb, words[len(head) :])


def test_the_page_has_no_other_command() -> None:
    told = re.findall(r"^### tollgate (.*)$", PAGE, flags=re.MULTILINE)
    assert sorted(told) == sorted(operation.command for operation in OPERATIONS)


@pytest.mark.parametrize("name", sorted(set(DESCRIBED) - set(WITHOUT_COMMAND)))
def test_the_api_s_page_names_the_commands(name: str) -> None:
    method, path, _ = DESCRIBED[name]
    page = (ROOT / "docs" / "admin-api.md").read_text()
    section = page.partition(f"\n## {method} {path}\n")[2].partition("\n## ")[0]
    commands = [each.command for each in OPERATIONS if each.operation_id == name]
    assert f"Command: {', '.join(f'`tollgate {command}`' for command in commands)}." in section


# How it starts -----------------------------------------------------------------------------------


def test_help_of_a_group_imports_nothing_heavy() -> None:
    """Neither that of the whole: no tables, no HTTP, no SQL, no models."""
    heavy = ("rich", "http.client", "httpx", "aiohttp", "sqlalchemy", "pydantic", "asyncio")
    code = (
        "import sys\nfrom gateway.cli import tollgate\n"
        "for words in (['--help'], ['tasks', '--help'], ['tasks', 'kill', '--help']):\n"
        "    try: tollgate.main(words)\n"
        "    except SystemExit: pass\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
