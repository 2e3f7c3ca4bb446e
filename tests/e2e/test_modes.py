"""Modes, kill switches, reloads and tags: what changes what a running gateway does."""

import asyncio
import signal
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from loadtest.fake_provider import FakeProvider
from tests.e2e.conftest import StartGateway
from tests.e2e.running_gateway import ROOT, UNTAGGED, Gateway, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
SHIPPED_BUDGETS = (ROOT / "config" / "phase_budgets.yaml").read_text()
POLICY = "kind: stop_loss\nname: p\nmode: {mode}\n"


async def call(gateway: Gateway, task: str = "", tokens: int = 100, **tags: str) -> httpx.Response:
    """Make one call that uses these input tokens, and wait until it is settled."""
    said = {f"x-task-{name}": value for name, value in tags.items()}
    if task:
        said["x-task-id"] = task
    headers = {"x-fake-prompt-tokens": str(tokens), "x-fake-completion-tokens": "0", **said}
    async with gateway.client() as client:
        answer = await client.post("/v1/chat/completions", json=CHAT, headers=headers)
    await gateway.settled(task or UNTAGGED)
    return answer


async def tripped(gateway: Gateway, task: str) -> None:
    """Spend more than the task may, so that its next call is refused."""
    await call(gateway, task, 40_000, phase="VERIFY")
    answer = await call(gateway, task, phase="VERIFY")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "task_budget_exceeded")
    assert gateway.task(task)["trip"] == "tokens"


# Modes and kill switches --------------------------------------------------------------------------


async def test_off(start_gateway: StartGateway, task: str) -> None:
    """Nothing is compared, nothing flagged; totals are kept all the same."""
    gateway = await start_gateway(mode="off")
    for _ in range(3):
        answer = await call(gateway, task, 40_000, phase="VERIFY")
        assert (answer.status_code, answer.headers["x-tollgate-decision"]) == (200, "allow")
    fields = gateway.task(task)
    assert (fields["tokens.S"], "would_refuse.calls" in fields) == ("120000", False)
    assert answer.headers["x-budget-status"] == "exceeded"


async def test_observe(gateway: Gateway, task: str) -> None:
    """The shipped mode: calls are flagged."""
    await call(gateway, task, 40_000, phase="VERIFY")
    answer = await call(gateway, task, phase="VERIFY")
    assert (answer.status_code, answer.headers["x-tollgate-decision"]) == (200, "flag")
    assert gateway.task(task)["would_refuse.calls"] == "1"
    assert "stop-loss (observe)" in gateway.banner


async def test_enforce(enforcing: Gateway, task: str) -> None:
    """Calls are refused."""
    await tripped(enforcing, task)
    assert "stop-loss (enforce)" in enforcing.banner


async def test_the_switch_in_the_environment(start_gateway: StartGateway, task: str) -> None:
    """DISABLE_BUDGET_ENFORCEMENT=1 lets every call pass, and the banner says so."""
    gateway = await start_gateway(mode="enforce", DISABLE_BUDGET_ENFORCEMENT="1")
    await call(gateway, task, 40_000, phase="VERIFY")
    answer = await call(gateway, task, phase="VERIFY")
    assert (answer.status_code, answer.headers["x-tollgate-decision"]) == (200, "flag")
    assert gateway.task(task)["would_refuse.calls"] == "1"
    assert "ENFORCEMENT IS DISABLED" in gateway.banner


# Reloads ------------------------------------------------------------------------------------------


@dataclass
class Files:
    """Budgets and policies of a gateway, in a folder that a test may write to."""

    folder: Path

    def __post_init__(self) -> None:
        self.budgets = self.folder / "budgets.yaml"
        self.policies = self.folder / "policies"
        self.policies.mkdir()
        self.budgets.write_text(SHIPPED_BUDGETS)
        self.set_mode("enforce")

    def set_mode(self, mode: str) -> None:
        (self.policies / "p.yaml").write_text(POLICY.format(mode=mode))

    def change(self, old: str, new: str) -> None:
        text = self.budgets.read_text()
        assert old in text
        self.budgets.write_text(text.replace(old, new))

    @property
    def settings(self) -> dict[str, str]:
        return {
            "TOLLGATE_BUDGETS__FILE": str(self.budgets),
            "TOLLGATE_POLICIES__DIR": str(self.policies),
        }


@pytest.fixture
def files(tmp_path: Path) -> Files:
    (tmp_path / "rules").mkdir()
    return Files(tmp_path / "rules")


async def reloads(gateway: Gateway, count: int, event: str = "reloaded") -> None:
    """Wait for so many reloads; one is over when all workers have said that they use the rules."""
    await until(lambda: len(gateway.log_events(event)) >= count, event)


async def reloaded(gateway: Gateway, *, original: bool, config_hash: str) -> None:
    """Wait for budgets that are, or are not, those of this hash; a signal and the watch of the files may both notice a change."""
    await until(
        lambda: (
            [
                (event["config_hash"] == config_hash) is original
                for event in gateway.log_events("reloaded")
            ][-1:]
            == [True]
        ),
        "reloaded",
    )


@pytest.mark.parametrize("by_signal", [True, False], ids=["SIGHUP", "file change"])
async def test_switching_the_stop_loss_off_frees_a_tripped_task(
    start_gateway: StartGateway, files: Files, task: str, by_signal: bool
) -> None:
    """`stop_loss.enabled: false` holds from the next call on, also for running tasks."""
    gateway = await start_gateway(workers=2, **files.settings)
    before = (await gateway.ready())["config_hash"]
    await tripped(gateway, task)
    files.change("enabled: true ", "enabled: false ")
    if by_signal:
        gateway.process.send_signal(signal.SIGHUP)
    await reloaded(gateway, original=False, config_hash=before)
    for _ in range(4):
        answer = await call(gateway, task, phase="VERIFY")
        assert (answer.status_code, answer.headers["x-tollgate-decision"]) == (200, "flag")
    files.change("enabled: false ", "enabled: true ")
    if by_signal:
        gateway.process.send_signal(signal.SIGHUP)
    await reloaded(gateway, original=True, config_hash=before)
    for _ in range(4):
        assert (await call(gateway, task, phase="VERIFY")).status_code == 400
    causes = {event["cause"] for event in gateway.log_events("reloaded")}
    assert ("SIGHUP" if by_signal else "file change") in causes


async def test_a_policy_that_changes(start_gateway: StartGateway, files: Files, task: str) -> None:
    """From the next call on; answers name the policies that were in force."""
    gateway = await start_gateway(**files.settings)
    await tripped(gateway, task)
    before = await gateway.ready()
    files.set_mode("observe")
    await reloads(gateway, 1)
    answer = await call(gateway, task, phase="VERIFY")
    assert (answer.status_code, answer.headers["x-tollgate-decision"]) == (200, "flag")
    after = await gateway.ready()
    assert answer.headers["x-tollgate-policy"] == after["policy_hash"] != before["policy_hash"]
    assert after["config_hash"] == before["config_hash"]


async def test_new_limits_are_for_new_tasks(
    start_gateway: StartGateway, files: Files, task: str
) -> None:
    """A task keeps the snapshot that it started with."""
    gateway = await start_gateway(**files.settings)
    await call(gateway, task, phase="PLAN")
    files.change("PLAN: {tokens: 2000,", "PLAN: {tokens: 20000,")
    await reloads(gateway, 1)
    assert (await call(gateway, task)).headers["x-budget-phase-tokens-limit"] == "2400"
    newer = await call(gateway, f"{task}-2", phase="PLAN")
    assert newer.headers["x-budget-phase-tokens-limit"] == "24000"


async def test_an_invalid_reload_keeps_the_last_good(
    start_gateway: StartGateway, files: Files, task: str
) -> None:
    """It is told loudly and changes nothing; what is mended holds."""
    gateway = await start_gateway(**files.settings)
    before = await gateway.ready()
    await tripped(gateway, task)
    files.change("PLAN: {tokens: 2000,", "PLAN: {tokens: minus two,")
    files.set_mode("observe")  # good in itself, but rules are taken together or not at all
    gateway.process.send_signal(signal.SIGHUP)
    await reloads(gateway, 1, "reload_rejected")
    findings = gateway.log_events("config_finding", level="error")
    assert any("PLAN" in event["finding"] for event in findings)
    assert (await call(gateway, task, phase="VERIFY")).status_code == 400
    ready = await gateway.ready()
    assert (ready["config_source"], ready["config_hash"], ready["policy_hash"]) == (
        "file",
        before["config_hash"],
        before["policy_hash"],
    )
    files.change("PLAN: {tokens: minus two,", "PLAN: {tokens: 2001,")
    await reloads(gateway, 1)
    assert (await call(gateway, task, phase="VERIFY")).status_code == 200


async def test_a_file_that_goes_away(start_gateway: StartGateway, files: Files, task: str) -> None:
    """A file in the middle of being replaced must not bring the defaults back."""
    gateway = await start_gateway(**files.settings)
    before = await gateway.ready()
    files.budgets.unlink()
    await reloads(gateway, 1, "reload_rejected")
    ready = await gateway.ready()
    assert (ready["config_source"], ready["config_hash"]) == ("file", before["config_hash"])


async def test_a_worker_that_starts_later_has_the_rules_in_force(
    start_gateway: StartGateway, files: Files, task: str
) -> None:
    """Not those of the start."""
    gateway = await start_gateway(**files.settings)
    await tripped(gateway, task)
    files.set_mode("observe")
    await reloads(gateway, 1)
    (worker,) = gateway.worker_pids()
    gateway.kill_child(worker)
    await until(lambda: gateway.log_events("worker_died"), "the supervisor's notice")
    async with asyncio.timeout(60):
        while not (await gateway.ready())["workers_ready"]:
            await asyncio.sleep(0.05)
    assert (await call(gateway, task, phase="VERIFY")).status_code == 200


# Files at start -----------------------------------------------------------------------------------


async def test_invalid_budgets_at_start(
    start_gateway: StartGateway, files: Files, task: str
) -> None:
    """The defaults take over, loudly."""
    files.change("MONITOR: {tokens: 1000, latency_ms: 20000}", "MONITOR: {tokens: -1}")
    gateway = await start_gateway(**files.settings)
    ready = await gateway.ready()
    assert (ready["status"], ready["config_source"]) == ("ready", "defaults")
    assert any(
        "MONITOR" in event["finding"]
        for event in gateway.log_events("config_finding", level="error")
    )
    assert "built-in defaults" in gateway.banner
    assert (await call(gateway, task)).headers["x-budget-task-tokens-limit"] == "23400"


async def test_invalid_budgets_with_strict(files: Files, provider: FakeProvider) -> None:
    """The gateway does not start."""
    files.change("MONITOR: {tokens: 1000, latency_ms: 20000}", "MONITOR: {tokens: -1}")
    gateway = Gateway(
        files.folder / "state", provider.base_url, arguments=("--strict",), **files.settings
    )
    async with gateway.launched():
        assert await gateway.ended() == 2
    assert "MONITOR" in gateway.log_text


async def test_no_budget_file(start_gateway: StartGateway, files: Files, task: str) -> None:
    """The defaults, with a warning."""
    files.budgets.unlink()
    gateway = await start_gateway(**files.settings)
    assert (await gateway.ready())["config_source"] == "defaults"
    await until(lambda: gateway.log_events("config_finding", level="warning"))
    assert not gateway.log_events("config_finding", level="error")
    assert (await call(gateway, task)).headers["x-budget-task-tokens-limit"] == "23400"


async def test_invalid_policies_at_start(
    start_gateway: StartGateway, files: Files, task: str
) -> None:
    """A built-in policy observes: nobody is refused by a file that nobody understands."""
    files.set_mode("enforced")
    gateway = await start_gateway(**files.settings)
    await call(gateway, task, 40_000, phase="VERIFY")
    answer = await call(gateway, task, phase="VERIFY")
    assert (answer.status_code, answer.headers["x-tollgate-decision"]) == (200, "flag")
    assert gateway.log_events("config_finding", level="error")


# Tags ---------------------------------------------------------------------------------------------

INVALID = [
    ("x-task-phase", "CODING", "X-Task-Phase", "IMPLEMENT"),
    ("x-phase", "CODING", "X-Phase", "IMPLEMENT"),
    ("x-task-complexity", "Huge", "X-Task-Complexity", "Tiny"),
    ("x-task-importance", "vital", "X-Task-Importance", "critical"),
    ("x-task-id", "../etc", "X-Task-Id", "letter or digit"),
    ("x-task-parent", "a b", "X-Task-Parent", "letter or digit"),
    ("baggage", "task.phase=CODING", "baggage task.phase", "IMPLEMENT"),
]


@pytest.mark.parametrize(("header", "value", "named", "allowed"), INVALID)
async def test_an_invalid_tag_where_tags_are_enforced(
    enforcing: Gateway,
    provider: FakeProvider,
    task: str,
    header: str,
    value: str,
    named: str,
    allowed: str,
) -> None:
    """400 with the header's name and what it may say; the provider hears nothing."""
    async with enforcing.client() as client:
        headers = {"x-task-id": task, header: value}
        answer = await client.post("/v1/chat/completions", json=CHAT, headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "invalid_tag")
    assert error["message"].startswith(f"{named}: ")
    assert allowed in error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert not provider.requests


async def test_EC19_an_invalid_tag_where_they_are_not(
    gateway: Gateway, provider: FakeProvider, task: str
) -> None:
    """It counts as absent, is labelled UNKNOWN, and told as an event."""
    answer = await call(gateway, task, phase="CODING", importance="vital")
    assert answer.status_code == 200
    assert answer.headers["x-tollgate-phase"] == "UNKNOWN"
    fields = gateway.task(task)
    assert "phase" not in fields
    assert fields["facts"].startswith("Medium|medium|")
    said = "X-Task-Phase: 'CODING' is not valid"
    await until(
        lambda: any(said in event["problem"] for event in gateway.log_events("invalid_tag")), said
    )
    answer = await call(gateway, task, phase="plan")
    assert answer.headers["x-tollgate-phase"] == "PLAN"


async def test_other_tiers_later_change_nothing(gateway: Gateway, task: str) -> None:
    """A task is a snapshot: no escape by calling itself critical after the breach."""
    first = await call(gateway, task, complexity="Large", importance="high")
    assert first.headers["x-budget-task-tokens-limit"] == "52650"
    second = await call(gateway, task, complexity="Tiny", importance="critical")
    assert second.headers["x-budget-task-tokens-limit"] == "52650"
    assert gateway.task(task)["facts"].startswith("Large|high|")


async def test_untagged_calls(enforcing: Gateway, provider: FakeProvider) -> None:
    """They are never refused, and counted in a bucket of their own."""
    before = enforcing.number(UNTAGGED, "tokens.S"), enforcing.number(UNTAGGED, "calls.S")
    for _ in range(3):
        answer = await call(enforcing, "", 100_000)
        assert (answer.status_code, answer.headers["x-tollgate-decision"]) == (200, "allow")
        assert answer.headers["x-tollgate-task"] == "-"
        assert "x-budget-task-tokens-limit" not in answer.headers
    after = enforcing.number(UNTAGGED, "tokens.S"), enforcing.number(UNTAGGED, "calls.S")
    assert (after[0] - before[0], after[1] - before[1]) == (300_000, 3)
    assert enforcing.held(UNTAGGED) == (0, 0, 0, 0)
    listed = (await enforcing.admin("GET", "/admin/v1/tasks")).json()
    assert UNTAGGED not in str(listed)


async def test_an_unknown_parent(gateway: Gateway, task: str) -> None:
    """The call is made without it, and an event tells."""
    answer = await call(gateway, task, parent="nobody-knows-it")
    assert answer.status_code == 200
    await until(lambda: gateway.log_events("unknown_parent", parent="nobody-knows-it"), "event")
    assert gateway.task(task)["facts"] == "Medium|medium||1000,1000,1000,1000"


async def test_a_tripped_parent_refuses_its_children(enforcing: Gateway, task: str) -> None:
    """Sub-agents cannot go on where their task was stopped; the message names the parent."""
    await call(enforcing, task, phase="VERIFY")
    child = f"{task}.child"
    await call(enforcing, child, 40_000, parent=task, phase="VERIFY")
    await enforcing.settled(task, 2)
    answer = await call(enforcing, f"{task}.other", parent=task, phase="VERIFY")
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(
        f"Task {task} exceeded token budget: 40,100"
    )
    assert enforcing.task(task)["trip"] == "tokens"
    assert "trip" not in enforcing.task(f"{task}.other")
