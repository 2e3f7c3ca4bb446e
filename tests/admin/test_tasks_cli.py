"""`tollgate tasks` on a running admin plane: what it shows, and what it does to a task."""

from pathlib import Path

import pytest

from tests.admin.desk import Desk
from tests.admin.plane import TOKEN, StartPlane
from tests.store.agent import Agent


@pytest.fixture(autouse=True)
def _no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")


WHY = ("--approver", "ada", "--reason", "nearly done")


async def test_a_task_is_listed_and_shown(plane: StartPlane, agent: Agent) -> None:
    """With the figures of the API, for people and as JSON."""
    desk = Desk(await plane(), "tasks")
    await agent.call("PLAN")
    listed = await desk.run("list")
    assert listed.exit_code == 0, listed.output
    assert "15,800 / 23,400 (68%)" in listed.output
    shown = await desk.run("show", "T")
    assert "T  Medium/medium" in shown.output
    assert "not started" in shown.output
    page = await desk.done("list", "--status", "open", "--breach-status", "within")
    assert ([task["id"] for task in page["tasks"]], page["next_cursor"]) == (["T"], None)
    assert (await desk.done("list", "--stop-loss", "tripped"))["tasks"] == []
    assert (await desk.done("list", "--status", "completed"))["tasks"] == []
    assert (await desk.done("show", "T"))["totals"]["tokens"]["used"] == 15_800


async def test_overrides(plane: StartPlane, agent: Agent) -> None:
    """Grants, limits and factors, each with who and why; amounts in people's units."""
    desk = Desk(await plane(), "tasks")
    await agent.call("PLAN")
    grant = await desk.done(
        "grant", "T", "--tokens", "5000", "--seconds", "9", "--hours", "2", *WHY
    )
    amounts = grant["override"]["amounts"]
    assert (amounts["tokens"], amounts["latency_ms"]) == (5_000, 9_000)
    assert grant["override"]["expires_ms"] - grant["override"]["created_ms"] == 7_200_000
    assert grant["override"]["approver"] == "ada"
    limit = await desk.done("limit", "T", "plan", "--tokens", "9000", "--usd", "1.5", *WHY)
    assert limit["override"]["phase"] == "PLAN"
    assert limit["override"]["amounts"]["nano_usd"] == 1_500_000_000
    assert (await desk.done("multiply", "T", "1.5", *WHY))["override"]["factor"] == "1.5"
    said = (await desk.run("grant", "T", "--tokens", "1", *WHY)).output
    assert "grant by ada (in force): nearly done" in said


async def test_a_life(plane: StartPlane, agent: Agent) -> None:
    """Killed, resumed, completed; what is not possible is told with exit code 1."""
    desk = Desk(await plane(), "tasks")
    await agent.call("PLAN")
    assert (await desk.done("kill", "T", *WHY))["state"] == "killed"
    assert "killed" in (await desk.run("show", "T")).output
    stopped = await desk.run("gate", "T")
    assert stopped.exit_code == 1
    assert "error:" in stopped.output
    assert (await desk.done("resume", "T", *WHY))["changed"] is True
    assert (await desk.done("gate", "T"))["decision"] == "allow"
    assert "T: allow" in (await desk.run("gate", "T", "--phase", "verify")).output
    assert (await desk.done("complete", "T", *WHY))["state"] == "completed"
    assert (await desk.done("reopen", "T", *WHY))["changed"] is True


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("show", "nobody"), "nobody"),
        (("kill", "T"), "--reason"),
        (("grant", "T", *WHY), "at least one of tokens, cost_usd and latency_ms is required"),
        (("limit", "T", "LUNCH", "--tokens", "1", *WHY), "LUNCH"),
        (("show", "T", "--token", "another-token"), "token"),
        (("show", "T", "--url", "http://127.0.0.1:1"), "Remedy: start the gateway"),
    ],
)
async def test_what_cannot_be_done(
    plane: StartPlane, agent: Agent, arguments: tuple[str, ...], says: str
) -> None:
    """The answer names what is wrong; nothing is shown as done."""
    desk = Desk(await plane(), "tasks")
    await agent.call("PLAN")
    result = await desk.run(*arguments)
    assert result.exit_code != 0
    assert says in result.output
    assert "Traceback" not in result.output


async def test_the_token_that_the_gateway_made(plane: StartPlane, tmp_path: Path) -> None:
    """Is read from its file; without one the error says what to set."""
    desk = Desk(await plane(), "tasks")
    missing = await desk.run("list", token="")
    assert missing.exit_code == 1
    assert "was started in, or set TOLLGATE_ADMIN_TOKEN" in missing.output
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "admin-token").write_text(TOKEN + "\n")
    assert (await desk.run("list", token="")).exit_code == 0
