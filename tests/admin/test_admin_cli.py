"""Commands on a running admin plane: what they ask, show, and end with."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from gateway.admin.live import close_feed
from gateway.app import report_reader
from gateway.core.policy import Mode, PolicySet, StopLossPolicy
from gateway.core.prices import ModelPrice, PriceTable
from gateway.ledger.database import migrate, open_engine
from gateway.store.correction import Charge
from tests.admin.desk import Desk
from tests.admin.plane import RULES, TOKEN, StartPlane
from tests.core.test_statistics import figures_of
from tests.store.agent import Agent, settlement

ENFORCING = replace(RULES, policies=PolicySet((StopLossPolicy(mode=Mode.ENFORCE),)))
PRICE = ModelPrice(1_250_000_000, 10_000_000_000, 125_000_000, 1_250_000_000, 128_000)
WHY = ("--approver", "ada", "--reason", "nearly done")
HOSTILE = "\x1b[2J\u202e"


@pytest.fixture(autouse=True)
def _no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    for name in ("TOLLGATE_ADMIN_URL", "TOLLGATE_ADMIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)


async def test_a_task_is_registered_and_worked_on(plane: StartPlane) -> None:
    """With limits of its own in people's units; other content for the same task is refused."""
    desk = Desk(await plane(), "tasks")
    limits = ("--phase-tokens", "plan=900", "--phase-usd", "PLAN=.5", "--phase-seconds", "THINK=9")
    made = await desk.done("register", "N", "--files", "3", *limits, "--by", "ada")
    assert (made["outcome"], made["task"]["complexity"]) == ("created", "Small")
    phases = {phase["phase"]: phase for phase in made["task"]["phases"]}
    assert phases["PLAN"]["tokens"]["limit"] == 900
    assert phases["PLAN"]["cost_usd"]["limit"] == "0.5"
    assert phases["THINK"]["latency_ms"]["limit"] == 9_000
    said = await desk.told("register", "N", "--files", "3", *limits, "--by", "ada")
    assert "warning: " in said
    assert "outcome same" in said
    assert "N" in await desk.refused("register", "N", "--files", "40")
    assert "execution 1, changed yes" in await desk.told("start-phase", "N", "plan")
    assert (await desk.done("end-phase", "N", "PLAN"))["changed"] is True
    assert "/ 900 (" in await desk.told("phases", "N")
    assert await desk.told("overrides", "N") == "none\n"
    await desk.done("grant", "N", "--tokens", "5", *WHY)
    assert "grant by ada (in force): nearly done" in await desk.told("overrides", "N")


async def test_a_shut_gate_and_enforcement_switched_off(plane: StartPlane, agent: Agent) -> None:
    """Exit code 1; as JSON the API's own refusal, the message beside it."""
    await agent.spend(28_081)
    desk = Desk(await plane(rules=ENFORCING))
    shut = await desk.run("tasks", "gate", "T", "--to", "review", "--json")
    assert shut.exit_code == 1
    assert json.loads(shut.stdout)["error"]["code"] == "BudgetExceeded"
    assert shut.stderr.startswith("error: ")
    tried = await desk.told("policies", "dry-run", "T", "--phase", "verify", "--input-tokens", "9")
    assert "7 decision  refuse" in tried
    assert "task_budget_exceeded" in tried
    off = await desk.done("enforcement", "off", "--hours", "1", *WHY)
    assert off["enforcing"] is False
    assert "it would refuse" in await desk.told("tasks", "gate", "T")
    assert "nearly done" in await desk.told("enforcement", "show")
    assert (await desk.done("enforcement", "on", *WHY))["enforcing"] is True


async def test_rules(plane: StartPlane) -> None:
    """A reload of bad files fails; a price is known or not."""
    faults: list[str] = []

    async def reload(_: str) -> list[str]:
        return faults

    rules = replace(ENFORCING, prices=PriceTable({"gpt-x": PRICE}))
    desk = Desk(await plane(rules=rules, reload=reload))
    assert "enforce_from" in await desk.told("policies", "list")
    assert (await desk.done("policies", "reload"))["policies"][0]["mode"] == "enforce"
    faults.append("stop-loss.yaml:3: mode: is wrong")
    assert "stop-loss.yaml:3" in await desk.refused("policies", "reload")
    assert (await desk.done("prices", "show", "gpt-x"))["usd_per_million"]["input"] == "1.25"
    assert "error: " in await desk.refused("prices", "show", "nothing-like-it")


async def test_sessions_and_keys(plane: StartPlane) -> None:
    """A key's text is shown once; what a key may do is said by repeated options."""
    desk = Desk(await plane())
    bound = await desk.done("sessions", "bind", "s:1", "T", "--phase", "plan", "--hours", "2")
    assert (bound["task"], bound["phase"]) == ("T", "PLAN")
    assert await desk.done("sessions", "show", "s:1") == bound
    unbound = await desk.done("sessions", "unbind", "s:1", "--reason", "it is over & done")
    assert unbound["changed"] is True
    assert "error: " in await desk.refused("sessions", "show", "../s 1")
    keys = ("keys", "remote")
    tags = ("--pin", "task=T-1", "--default", "phase=PLAN", "--may-set", "none")
    made = await desk.done(*keys, "create", "ci", "--model", "gpt-*", *tags, "--critical")
    assert (made["models"], made["may_set"], made["may_claim_critical"]) == (["gpt-*"], [], True)
    assert (made["pins"]["task"], made["defaults"]["phase"]) == ("T-1", "PLAN")
    assert "T-1" in await desk.told(*keys, "show", made["id"])
    text, advice, *_ = (await desk.told(*keys, "rotate", made["id"])).splitlines()
    assert text.startswith(f"tg-{made['id']}-")
    assert advice.startswith("Keep it now")
    assert (await desk.done(*keys, "revoke", made["id"], "--by", "ada"))["state"] == "revoked"
    assert "revoked" in await desk.told(*keys, "list")


def audit_row(number: int) -> dict[str, Any]:
    return {"number": number, "at_ms": 1, "actor": f"ada{HOSTILE}", "action": "task.kill",
            "subject": f"T-{number}", "reason": "[red]why", "details": "{}"}  # fmt: skip


async def test_lists_are_followed_over_pages(plane: StartPlane) -> None:
    """As many as are wanted, or all; a cursor goes on. A name brings no escape sequence along."""
    rows = [audit_row(number) for number in range(430, 0, -1)]
    asked: list[int] = []

    def read_page(
        _: str, __: str, ___: Mapping[str, str], below: int | None, limit: int
    ) -> list[dict[str, Any]]:
        asked.append(limit)
        return [row for row in rows if below is None or row["number"] < below][:limit]

    desk = Desk(await plane(read_page=read_page), "audit", "list")
    page = await desk.done("--limit", "3")
    assert [row["subject"] for row in page["entries"]] == ["T-430", "T-429", "T-428"]
    rest = await desk.done("--limit", "250", "--cursor", page["next_cursor"])
    assert [len(rest["entries"]), rest["entries"][-1]["subject"]] == [250, "T-178"]
    assert len((await desk.done())["entries"]) == 50
    everything = await desk.done("--all")
    assert (len(everything["entries"]), everything["next_cursor"]) == (430, None)
    assert everything["entries"][0]["actor"] == f"ada{HOSTILE}"
    shown = await desk.told("--limit", "2")
    assert r"ada\x1b[2J\u202e" in shown
    assert "[red]why" in shown
    assert "\x1b" not in shown
    assert "more: --all, or --cursor" in shown
    assert "--all" not in await desk.told("--all")
    assert max(asked) <= 201


async def test_events_are_watched(plane: StartPlane) -> None:
    """An object a line, as many as are wanted; a feed that ends is told."""
    admin = await plane()
    desk = Desk(admin, "events", "watch")
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(desk.run("--json", "--count", "2"))
        await until(lambda: len(admin.parts.feed) == 1)
        for number in (1, 2):
            admin.parts.feed.publish("reloaded", "info", {"cause": f"{number}{HOSTILE}"})
    watched = watching.result()
    assert watched.exit_code == 0, watched.output
    causes = [json.loads(line)["cause"] for line in watched.stdout.splitlines()]
    assert causes == [f"1{HOSTILE}", f"2{HOSTILE}"]
    await until(lambda: len(admin.parts.feed) == 0)
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(desk.run())
        await until(lambda: len(admin.parts.feed) == 1)
        admin.parts.feed.publish("worker_died", "error", {"reason": f"x{HOSTILE}"})
        await close_feed(admin.client.app)  # type: ignore[arg-type]
    ended = watching.result()
    assert ended.exit_code == 1
    assert ended.stdout == "error worker_died reason=x\\x1b[2J\\u202e\n"
    assert "the gateway ended the feed" in ended.stderr


async def until(holds: Any) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


async def test_the_ledger_s_lists(plane: StartPlane) -> None:
    """Filters are passed on; nothing found is said; statistics of a period."""
    asked: list[tuple[str, ...]] = []

    def read_outbox(table: str, _: str, task: str, state: str, limit: int) -> list[Any]:
        asked.append((table, task, state, str(limit)))
        return []

    def read_statistics(_: str, since_ms: int, until_ms: int, __: bool) -> Any:
        return figures_of(since_ms, until_ms)

    desk = Desk(await plane(read_outbox=read_outbox, read_statistics=read_statistics))
    assert await desk.told("remediation", "list", "--state", "failed", "--task", "T") == "none\n"
    assert await desk.done("deliveries", "list", "--limit", "7") == {"deliveries": []}
    assert [each[1:] for each in asked] == [("T", "failed", "50"), ("", "", "7")]
    assert "no_data" in await desk.told("statistics", "show", "--since", "2026-11-01")
    assert "since" in await desk.refused("statistics", "show", "--since", "yesterday")
    assert "ledger" in await desk.refused("breaches", "list")
    assert "ledger" in await desk.refused("breaches", "judge", "c-1", "justified", *WHY)


async def test_a_report_and_a_correction(plane: StartPlane, agent: Agent, tmp_path: Path) -> None:
    """A report is Markdown for people, else JSON; a charge is mended by exact amounts."""
    ledger = f"sqlite:///{tmp_path / 'ledger.db'}"
    with open_engine(ledger).connect() as connection:
        migrate(connection)
    plan, _ = await agent.reserve("PLAN")
    await agent.store.settle(settlement(plan, 17_000))
    charge = Charge(plan.call_id, "T", "settled", 1, "PLAN", 1, 17_000, None, False, False)
    admin = await plane(read_charge=lambda *_: charge, read_report=report_reader(ledger))
    desk = Desk(admin)
    said = await desk.told("calls", "correct", plan.call_id, "--usd", "0.0000005", *WHY)
    assert "after.cost_usd 0.0000005" in said
    assert "T  Medium/medium" in said
    assert (await desk.told("tasks", "report", "T")).startswith("# Budget Report: T\n")
    assert (await desk.done("tasks", "report", "T", "--redacted"))["redacted"] is True


async def test_health(plane: StartPlane) -> None:
    """Asked without a token; not ready is exit code 1, with why."""
    desk = Desk(await plane(draining=True))
    ended = await desk.run("health", "show", token="")
    assert (ended.exit_code, ended.stderr) == (1, "")
    assert "the gateway is draining" in ended.stdout
    asked = await desk.run("health", "show", "--json")
    assert (asked.exit_code, json.loads(asked.stdout)["status"]) == (1, "not_ready")


async def test_the_gateway_is_named_by_the_environment(
    plane: StartPlane, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Then no settings are read, not even wrong ones; an option is over it."""
    desk = Desk(await plane(), "tasks", "list")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "gateway.yaml").write_text("nonsense: 1\n")
    monkeypatch.setenv("TOLLGATE_ADMIN_URL", desk.url + "/")
    monkeypatch.setenv("TOLLGATE_ADMIN_TOKEN", TOKEN)
    assert await desk.told() == "none\n"
    assert "token" in await desk.refused("--token", "another-token")


class _Other(BaseHTTPRequestHandler):
    """A server that is no admin plane."""

    def do_GET(self) -> None:
        status, text = 200, b"<html>\x1b[2J"
        if "tasks" in self.path:
            status, text = 302, b""
        elif "keys" in self.path:  # as the data plane answers, and providers do
            status, text = 404, b'{"error": {"type": "not_found_error", "message": "Routes are"}}'
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def other() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Other) as server:
        Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


async def test_what_is_no_admin_plane(plane: StartPlane, other: str) -> None:
    """Is told with a remedy, whatever it answers."""
    desk = Desk(await plane())
    for words, says in (
        (("audit", "list", "--url", other), "answers, but not as an admin plane"),
        (("tasks", "show", "T", "--url", other), "was answered 302"),
        (("keys", "remote", "list", "--url", other), "see that the URL is that of the gateway's"),
        (("audit", "list", "--url", "http://127.0.0.1:1"), "does not answer"),
        (("audit", "list", "--url", "127.0.0.1:8081"), "is not the URL of an admin plane"),
        (("audit", "list", "--url", "http://h:port"), "is not the URL of an admin plane"),
        (("audit", "list", "--token", "a\nb"), "one line of plain letters"),
        (("events", "watch", "--token", "another-token"), "token"),
    ):
        said = await desk.refused(*words)
        assert says in said
        assert "Remedy: " in said
        assert "\x1b" not in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("tasks kill T", "--reason"),
        ("tasks multiply T twice --reason x", "is not a number"),
        ("tasks grant T --hours inf --reason x", "is not a number of hours"),
        ("tasks register T --phase-tokens PLAN", "is not of the form name=value"),
        ("tasks register T --phase-tokens LUNCH=1", "LUNCH"),
        ("tasks register T --phase-tokens PLAN=1 --phase-tokens plan=2", "PLAN is given twice"),
        ("keys remote create x --pin task=T --pin task=U", "task is given twice"),
        ("breaches list --effect stop", "stop"),
        ("keys remote create", "NAME"),
    ],
)
async def test_what_cannot_be_understood(plane: StartPlane, words: str, says: str) -> None:
    """Exit code 2, before anything is asked."""
    ended = await Desk(await plane()).run(*words.split())
    assert ended.exit_code == 2
    assert says in ended.output
