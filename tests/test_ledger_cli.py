"""`tollgate ledger`: what it says when something is not as it must be. The rest is in e2e."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.core.errors import InvalidConfigError
from gateway.ledger.database import latest_revision, migrate, open_engine
from gateway.ledger.verify import Difference, Verified
from gateway.ledger_cli import ledger


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOLLGATE_STATE_DIR", str(tmp_path / "state"))
    yield


def run(*arguments: str) -> Result:
    return CliRunner().invoke(ledger, arguments)


def make_ledger(tmp_path: Path, revision: str = "head") -> None:
    with open_engine(f"sqlite:///{tmp_path / 'state' / 'ledger.db'}").connect() as connection:
        migrate(connection, revision)


def test_no_ledger_yet() -> None:
    """It is not made by looking for it."""
    result = run("export", "calls.jsonl")
    assert result.exit_code == 1
    assert "there is no ledger at" in result.output
    assert "Remedy: start the gateway once" in result.output
    assert not Path("state/ledger.db").exists()


def test_a_ledger_of_another_version(tmp_path: Path) -> None:
    """Both versions are named."""
    make_ledger(tmp_path, "0001")
    result = run("export", "calls.jsonl")
    assert result.exit_code == 1
    assert f"schema is 0001, this program needs {latest_revision()}" in result.output


def test_a_store_that_does_not_answer(tmp_path: Path) -> None:
    """It says which one, and what to do."""
    make_ledger(tmp_path)
    for command in ("verify", "rebuild"):
        result = run(command)
        assert result.exit_code == 1
        assert "the embedded store, which its gateway runs" in result.output
        assert "Remedy: start the gateway" in result.output


def test_a_database_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, without the password."""
    monkeypatch.setenv("TOLLGATE_LEDGER__URL", "postgresql://u:hunter2@127.0.0.1:1/x")
    result = run("export", "calls.jsonl")
    assert result.exit_code == 1
    assert result.output.startswith("error: connection")
    assert "hunter2" not in result.output
    assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize("url", ["sqlite://", "mysql://h/d", "sqlite:///:memory:", "postgresql:"])
def test_a_url_that_is_none(url: str) -> None:
    """The field is named, the URL is not repeated."""
    with pytest.raises(InvalidConfigError) as error:
        open_engine(url)
    assert str(error.value).startswith("ledger.url: ")
    assert "Remedy" in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("verify", "--task", "a b"), "cannot be a task's id"),
        (("export", "--since", "soon", "f"), "is no ISO 8601 time"),
        (("export", "--table", "secrets", "f"), "is not one of"),
        (("export", "--format", "xls", "f"), "is not one of"),
        (("export",), "Missing argument"),
    ],
)
def test_a_wrong_command_line(arguments: tuple[str, ...], said: str) -> None:
    """Exit code 2, by click's custom."""
    result = run(*arguments)
    assert (result.exit_code, said in result.output) == (2, True), result.output


def test_an_export_of_a_span_of_time(tmp_path: Path) -> None:
    """Times are UTC unless they say otherwise; an empty table is a file as well."""
    make_ledger(tmp_path)
    result = run("export", "--since", "2026-11-23", "--until", "2026-11-24T01:00+02:00", "f")
    assert (result.exit_code, result.output) == (0, "ok: 0 rows of calls in f\n")
    assert Path("f").read_text() == ""


DIFFERS = Difference("T", "calls.S", 1, 2)


@pytest.mark.parametrize(
    ("verified", "code", "said"),
    [
        (Verified(3, ()), 0, "ok: 3 tasks agree\n"),
        (Verified(3, (), 2), 0, "ok: 3 tasks and 2 windows of spend limits agree\n"),
        (Verified(3, (DIFFERS,), 2), 3, "T: calls.S: store 1, ledger 2\n1 of 3 tasks differ\n"),
        (
            Verified(3, (Difference("window:daily:key:k@2026", "tokens.S", 7_000, 6),), 2),
            3,
            "window:daily:key:k@2026: tokens.S: store 7,000, ledger 6\n"
            "0 of 3 tasks differ\n1 of 2 windows of spend limits differ\n",
        ),
    ],
)
def test_GW11_what_verify_says(
    verified: Verified, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.ledger_cli._with_both", lambda *_: verified)
    result = run("verify")
    assert (result.exit_code, result.output) == (code, said)
