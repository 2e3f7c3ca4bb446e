"""The command line: serve, check, explain."""

import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result

import gateway
from gateway import cli
from gateway.settings import Settings

REPOSITORY = Path(__file__).parents[1]
HEAVY = ("pydantic", "yaml", "aiohttp", "litellm", "hiredis", "httptools", "uvloop", "asyncio")
Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Stand in a folder with a copy of the shipped configuration and no variable of ours."""
    for name in list(os.environ):
        if name.upper().startswith("TOLLGATE_"):
            monkeypatch.delenv(name)
    shutil.copytree(REPOSITORY / "config", tmp_path / "config")
    shutil.copytree(REPOSITORY / "policies", tmp_path / "policies")
    monkeypatch.chdir(tmp_path)
    yield


@pytest.fixture
def run() -> Run:
    return lambda *arguments: CliRunner().invoke(cli.tollgate, list(arguments))


def edit(file: str, old: str, new: str) -> None:
    text = Path(file).read_text()
    assert old in text
    Path(file).write_text(text.replace(old, new))


# the whole


def test_the_version_is_the_package_s(run: Run) -> None:
    assert run("--version").output == f"tollgate, version {gateway.__version__}\n"


def test_help_names_the_commands(run: Run) -> None:
    output = run("--help").output
    assert all(f"\n  {name} " in output for name in ("serve", "check", "explain", "ledger"))


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom gateway.cli import main\nsys.argv = ['tollgate', '--help']\n"
        "try: main()\nexcept SystemExit: pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "check"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok: config/gateway.yaml" in done.stdout


def test_the_module_runs_main(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["tollgate", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("gateway", run_name="__main__")
    assert ended.value.code == 0
    runpy.run_module("gateway.__main__", run_name="imported")


def test_a_wrong_configuration_is_told_finding_by_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit("config/gateway.yaml", "port: 8080", "port: x\n  prot: 1")
    monkeypatch.setattr(sys, "argv", ["tollgate", "serve"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    first, second = capsys.readouterr().err.splitlines()
    line = Path("config/gateway.yaml").read_text().splitlines().index("  port: x") + 1
    assert first.startswith(f"error: config/gateway.yaml:{line}: server.port: must be")
    assert second.startswith(f"error: config/gateway.yaml:{line + 1}: server.prot: unknown key")


# serve


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Settings, bool]]:
    """Stand in for the supervisor, which has tests of its own; keep what it is called with."""
    calls: list[tuple[Settings, bool]] = []

    def serve(settings: Settings, *, strict: bool) -> int:
        calls.append((settings, strict))
        return 7

    supervisor: Any = ModuleType("gateway.supervisor")
    supervisor.serve = serve
    monkeypatch.setitem(sys.modules, "gateway.supervisor", supervisor)
    return calls


def test_serve_runs_the_supervisor_and_ends_with_its_code(
    run: Run, served: list[tuple[Settings, bool]]
) -> None:
    assert run("serve").exit_code == 7
    assert served == [(Settings(), False)]


def test_the_options_of_serve_are_over_file_and_environment(
    run: Run, served: list[tuple[Settings, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLLGATE_SERVER__PORT", "1")
    monkeypatch.setenv("TOLLGATE_SERVER__WORKERS", "5")
    run(
        *("serve", "--config", "config/gateway.yaml", "--host", "::1", "--port", "9000"),
        *("--admin-port", "9001", "--log-format", "text"),
    )
    [(settings, _)] = served
    assert (settings.server.host, settings.server.port) == ("::1", 9000)
    assert settings.server.workers == 5
    assert settings.admin.port == 9001
    assert settings.log.format == "text"
    run("serve", "--workers", "3", "--port", "0")
    assert served[1][0].server.workers == 3
    assert served[1][0].server.port == 0


def test_strict_does_not_start_on_an_invalid_budgets_file(
    run: Run, served: list[tuple[Settings, bool]]
) -> None:
    edit("config/phase_budgets.yaml", "Tiny: 0.5", "Tiny: 0")
    result = run("serve", "--strict")
    assert result.exit_code == 2
    assert "error: config/phase_budgets.yaml:29: complexity_multipliers.Tiny" in result.stderr
    assert served == []
    assert run("serve").exit_code == 7


def test_strict_starts_on_good_files(run: Run, served: list[tuple[Settings, bool]]) -> None:
    assert run("serve", "--strict").exit_code == 7
    assert served == [(Settings(), True)]


def test_a_configuration_that_is_named_must_exist(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tollgate", "serve", "--config", "none.yaml"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: none.yaml: cannot be read")


# check


def test_check_says_ok_for_every_shipped_file(run: Run) -> None:
    result = run("check")
    assert result.exit_code == 0
    assert [line.partition(" (")[0] for line in result.output.splitlines()] == [
        "ok: config/gateway.yaml",
        "ok: config/phase_budgets.yaml",
        "ok: config/presets/coding_agent.yaml",
        "ok: policies/stop-loss.yaml",
        "ok: policies/unmetered-route.yaml",
        "ok: policies/unpriced-model.yaml",
        "ok: policies/untagged-calls.yaml",
        "ok: policies/rollout/week1/stop-loss.yaml",
        "ok: policies/rollout/week2/10-low-and-medium.yaml",
        "ok: policies/rollout/week2/20-high-and-critical.yaml",
        "ok: policies/rollout/week3/stop-loss.yaml",
        "ok: config/prices.yaml",
        "ok: policies/cases/stop-loss.yaml",
        "ok: policies/cases/unmetered-route.yaml",
        "ok: policies/cases/unpriced-model.yaml",
        "ok: policies/cases/untagged-calls.yaml",
        "ok: policies/rollout/week1/cases/stop-loss.yaml",
        "ok: policies/rollout/week2/cases/10-low-and-medium.yaml",
        "ok: policies/rollout/week2/cases/20-high-and-critical.yaml",
        "ok: policies/rollout/week3/cases/stop-loss.yaml",
    ]


def test_check_fails_where_a_case_does_not_hold(run: Run) -> None:
    """The policy says something else than its case: file, case, what was expected, what came."""
    edit("policies/rollout/week3/stop-loss.yaml", "mode: enforce", "mode: observe")
    result = run("check")
    assert result.exit_code == 1
    errors = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert errors[0].startswith(
        "error: policies/rollout/week3/cases/stop-loss.yaml:2: case 'in the third week every task "
        "is held to its line': decision: expected refuse, got flag. Remedy: "
    )
    assert "ok: policies/rollout/week3/cases" not in result.output


@pytest.mark.parametrize(
    ("file", "old", "new", "fault"),
    [
        (
            "config/gateway.yaml",
            "port: 8081",
            "port: 0.5",
            "admin.port: must be a valid integer, not 0.5",
        ),
        (
            "config/phase_budgets.yaml",
            "  MONITOR: {tokens: 1000, latency_ms: 20000}\n",
            "",
            "Missing base budget for phase: MONITOR",
        ),
        ("config/presets/coding_agent.yaml", "low: 0.7", "low: 0", "importance_multipliers.low"),
        ("policies/stop-loss.yaml", "mode: observe", "mode: watch", "mode: 'watch'"),
        ("policies/rollout/week2/20-high-and-critical.yaml", "kind: ", "kimd: ", "a kind is requi"),
        ("config/prices.yaml", "models: {}", "models: 1", "models: must be a mapping"),
    ],
)
def test_check_finds_the_fault_in_each_file(
    file: str, old: str, new: str, fault: str, run: Run
) -> None:
    edit(file, old, new)
    result = run("check")
    assert result.exit_code == 1
    [error] = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert error.startswith(f"error: {file}")
    assert fault in error
    assert f"ok: {file}" not in result.output
    good = [line for line in result.output.splitlines() if line.startswith("ok: ")]
    assert len([line for line in good if "/cases/" not in line]) == 11


def test_check_prints_every_fault_of_every_file(run: Run) -> None:
    edit("config/gateway.yaml", "port: 8080", "port: x")
    edit("config/phase_budgets.yaml", "Tiny: 0.5", "Tiny: true")
    edit("config/phase_budgets.yaml", "Large: 1.5", "Large: 11")
    assert run("check").output.count("error: ") == 3


def test_check_warns_without_failing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trailing /v1, a missing budgets file, a status that is retried, a lost underscore."""
    Path("config/phase_budgets.yaml").unlink()
    edit("config/gateway.yaml", "https://api.openai.com ", "https://api.openai.com/v1 ")
    edit("config/gateway.yaml", "refusal_status: 400", "refusal_status: 429")
    monkeypatch.setenv("TOLLGATE_SERVER_PORT", "1")
    result = run("check")
    assert result.exit_code == 0
    assert [line.partition(". Remedy")[0] for line in result.output.splitlines()[:4]] == [
        "warning: config/gateway.yaml: upstreams.openai.base_url: "
        "ends in /v1, which the calls' own path repeats",
        "warning: config/gateway.yaml: refusal_status: 429 is retried by some clients",
        "warning: environment: TOLLGATE_SERVER_PORT: is not read",
        "warning: config/phase_budgets.yaml: does not exist, the built-in defaults hold",
    ]


def test_check_takes_the_files_that_the_configuration_names(run: Run, tmp_path: Path) -> None:
    Path("other").mkdir()
    Path("other/gateway.yaml").write_text(
        "budgets: {file: config/presets/coding_agent.yaml}\n"
        "policies: {dir: policies/rollout/week1}\n"
    )
    result = run("check", "--config", "other/gateway.yaml")
    assert [line.partition(" (")[0] for line in result.output.splitlines()] == [
        "ok: other/gateway.yaml",
        "ok: config/presets/coding_agent.yaml",
        "ok: policies/rollout/week1/stop-loss.yaml",
        "ok: config/prices.yaml",
        "ok: policies/rollout/week1/cases/stop-loss.yaml",
    ]


def test_the_budgets_file_is_not_checked_twice_as_a_preset(run: Run) -> None:
    edit("config/gateway.yaml", "config/phase_budgets.yaml  ", "config/presets/coding_agent.yaml  ")
    assert run("check").output.count("coding_agent.yaml") == 1


# explain


def test_explain_shows_base_factors_limit_lines_and_totals(run: Run) -> None:
    """CAL-3, CAL-5, CAL-7."""
    result = run("explain", "--phase", "THINK", "--complexity", "Large", "--importance", "critical")
    assert result.exit_code == 0
    assert result.output.splitlines()[:9] == [
        "budgets      config/phase_budgets.yaml, hash 085424f2b6882098",
        "",
        "base         4,000 tokens / 90,000 ms   THINK",
        "complexity   6,000 tokens / 135,000 ms   x 1.5 Large",
        "importance   12,000 tokens / 270,000 ms   x 2.0 critical",
        "weight       18,000 tokens / 405,000 ms   x 1.5 of THINK",
        "multiplier   18,000 tokens / 405,000 ms   x 1 of the task",
        "limit        18,000 tokens / 405,000 ms",
        "phase line   27,000 tokens / 607,500 ms   x 1.5",
    ]
    assert "total          70,200   1,719,000 ms" in result.output
    assert "cumulative line   84,240 tokens / 2,062,800 ms   x 1.2, x 1.2" in result.output
    assert "runaway line      140,400 tokens / 3,438,000 ms   x 2.0" in result.output


def test_explain_takes_medium_for_tiers_that_are_not_given(run: Run) -> None:
    """CMP-1."""
    output = run("explain", "--phase", "think").output
    assert "limit        6,000 tokens / 135,000 ms" in output
    assert "the whole task, Medium/medium" in output


def test_explain_scales_by_the_task_s_own_multiplier(run: Run) -> None:
    """OVR-2."""
    output = run("explain", "--phase", "PR", "--multiplier", "0.1").output
    assert "limit        90 tokens / 1,800 ms" in output


def test_the_help_of_explain_lists_the_words(run: Run) -> None:
    output = " ".join(run("explain", "--help").output.split())
    assert "[STRATEGIZE|SPEC|PLAN|THINK|IMPLEMENT|VERIFY|REVIEW|PR|MONITOR]" in output
    assert "[Tiny|Small|Medium|Large]" in output
    assert "[low|medium|high|critical]" in output


def test_explain_says_when_the_defaults_hold(run: Run) -> None:
    edit("config/phase_budgets.yaml", "Tiny: 0.5", "Tiny: 0")
    result = run("explain", "--phase", "PR")
    assert result.stdout.startswith("budgets      built-in defaults, hash ")
    assert "error: config/phase_budgets.yaml:29" in result.stderr


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--phase", "DEPLOY", "'DEPLOY' is none of: STRATEGIZE, SPEC, PLAN, THINK"),
        ("--complexity", "huge", "'huge' is none of: Tiny, Small, Medium, Large"),
        ("--importance", "urgent", "'urgent' is none of: low, medium, high, critical"),
        ("--multiplier", "0", "0 is not above 0 and at most 10"),
        ("--multiplier", "11", "11 is not above 0 and at most 10"),
        ("--multiplier", "NaN", "NaN is not above 0 and at most 10"),
        ("--multiplier", "two", "'two' is not a number"),
    ],
)
def test_explain_names_the_words_that_are_allowed(
    option: str, value: str, message: str, run: Run
) -> None:
    result = run("explain", "--phase", "PR", option, value)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
