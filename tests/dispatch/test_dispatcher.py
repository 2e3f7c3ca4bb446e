"""What the outbox holds is written and posted, again and again until it is done; then never more."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from sqlalchemy import Table, select

from gateway.core.notices import Notice, NoticeKind
from gateway.core.webhook import WebhookPolicy
from gateway.dispatch.dispatcher import Dispatcher, DispatchRules
from gateway.ledger.database import migrate, open_engine
from gateway.ledger.outbox import Outbox
from gateway.ledger.schema import DELIVERIES, REMEDIATIONS
from tests.dispatch.receiver import SECRET, Receiver, receiving

PATIENCE_S = 60
NOW_S = 1_793_612_400.0
VARIABLE = "TOLLGATE_TEST_WEBHOOK_SECRET"
TRIP = Notice(
    NoticeKind.TRIP,
    "1",
    "default",
    "T",
    1_000,
    {
        "episode": 1,
        "code": "task_budget_exceeded",
        "dimension": "tokens",
        "used": 31_600,
        "limit": 23_400,
        "line": 28_080,
        "phase": "VERIFY",
    },
)


@dataclass
class Post:
    """A ledger with an outbox, and dispatchers over it, one process' life after the other."""

    folder: Path
    outbox: Outbox
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    may_send: bool = True

    def __post_init__(self) -> None:
        self.engine = open_engine(f"sqlite:///{self.folder / 'ledger.db'}")
        with self.engine.connect() as connection:
            migrate(connection)

    @property
    def roadmap(self) -> Path:
        return self.folder / "roadmap.yaml"

    def note(self, name: str, level: str = "info", **fields: Any) -> None:
        self.events.append((name, {"level": level, **fields}))

    def said(self, name: str) -> list[dict[str, Any]]:
        return [fields for known, fields in self.events if known == name]

    def put_down(self, *notices: Notice) -> None:
        with self.engine.begin() as connection:
            self.outbox.insert(connection, notices)

    def rows(self, table: Table = DELIVERIES) -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            found = connection.execute(select(table).order_by(table.c.created_ms))
            return [dict(row) for row in found.mappings()]

    @asynccontextmanager
    async def dispatching(self) -> AsyncIterator[Dispatcher]:
        """Run a dispatcher; waits are nothing."""
        file = self.roadmap if self.outbox.has_roadmap else None
        rules = DispatchRules(file, backoff_s=(0,))
        made = Dispatcher(
            rules, self.engine, self.outbox, lambda: self.may_send, self.note, lambda: NOW_S
        )
        running = asyncio.ensure_future(made.run())
        try:
            yield made
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def until(self, table: Table, *states: str) -> list[dict[str, Any]]:
        """Wait until the rows are in these states."""
        async with asyncio.timeout(PATIENCE_S):
            while sorted(row["state"] for row in self.rows(table)) != sorted(states):
                self.outbox.has_news = True  # it would look once a second
                await asyncio.sleep(0.01)
        return self.rows(table)


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, SECRET.decode())


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as made:
        yield made


@pytest.fixture
def hook(receiver: Receiver) -> WebhookPolicy:
    """A webhook that gives up at the third failure."""
    events = frozenset({NoticeKind.TRIP, NoticeKind.REMEDIATION_FAILED})
    return WebhookPolicy(url=receiver.url, secret_env=VARIABLE, events=events, attempts=3)


@pytest.fixture
def post(tmp_path: Path, hook: WebhookPolicy) -> Iterator[Post]:
    """An outbox with that webhook and a roadmap file."""
    made = Post(tmp_path, Outbox((hook,), has_roadmap=True))
    yield made
    made.engine.dispose()


# Remediation --------------------------------------------------------------------------------------


async def test_SL6_a_remediation_is_written_to_the_roadmap(post: Post) -> None:
    """Once, also if the process died between writing the file and noting it."""
    post.roadmap.write_text("# ours\ntasks:\n  - id: T   # the first\n")
    post.put_down(TRIP)
    async with post.dispatching():
        await post.until(REMEDIATIONS, "written")
    with post.engine.begin() as connection:
        connection.execute(REMEDIATIONS.update().values(state="pending"))
    async with post.dispatching():
        await post.until(REMEDIATIONS, "written")
    text = post.roadmap.read_text()
    assert text.startswith("# ours\ntasks:\n  - id: T   # the first\n")
    task = yaml.safe_load(text)["tasks"][1]
    assert task["id"] == "FIX-BUDGET-BREACH-T"
    assert task["title"] == "Task T exceeded token budget: 31,600 / 23,400 (135%)"
    assert len(yaml.safe_load(text)["tasks"]) == 2
    assert post.said("remediation_written")[0]["remediation"] == "FIX-BUDGET-BREACH-T"


async def test_EC12_SL7_a_failure_is_critical_and_tried_again(
    post: Post, receiver: Receiver
) -> None:
    """With the text of SL-7, once, to the log and to webhooks; over a restart it is still to do."""
    post.roadmap.write_text("tasks: 5\n")
    post.put_down(TRIP)
    async with post.dispatching():
        await post.until(REMEDIATIONS, "failed")
        async with asyncio.timeout(PATIENCE_S):
            while post.rows(REMEDIATIONS)[0]["attempts"] < 3:
                post.outbox.has_news = True
                await asyncio.sleep(0.01)
    (told,) = post.said("remediation_failed")
    assert told["level"] == "critical"
    text = "Budget stop-loss triggered for T, remediation task creation failed"
    assert told["message"] == text
    assert "no list of tasks" in post.rows(REMEDIATIONS)[0]["error"]
    assert post.roadmap.read_text() == "tasks: 5\n"
    async with post.dispatching():
        await post.until(DELIVERIES, "delivered", "delivered")
        post.roadmap.write_text("tasks: []\n")
        (row,) = await post.until(REMEDIATIONS, "written")
    assert row["error"] is None
    assert len(post.said("remediation_failed")) == 1
    assert yaml.safe_load(post.roadmap.read_text())["tasks"][0]["id"] == "FIX-BUDGET-BREACH-T"
    bodies = [json.loads(body) for _, body in receiver.seen]
    # One that was being posted when its dispatcher ended is posted again, under the same id.
    (failed,) = {
        body["id"]: body for body in bodies if body["event"] == "remediation_failed"
    }.values()
    assert failed["data"]["message"] == text


async def test_without_a_roadmap_it_is_listed(post: Post) -> None:
    post.outbox.has_roadmap = False
    post.put_down(TRIP)
    async with post.dispatching():
        await post.until(DELIVERIES, "delivered")
    assert [row["state"] for row in post.rows(REMEDIATIONS)] == ["listed"]


@pytest.mark.parametrize("attempts", [1, 3])
async def test_SL7_a_webhook_alone_may_fail_to_make_it_too(
    post: Post, receiver: Receiver, hook: WebhookPolicy, attempts: int
) -> None:
    """Critical and once, however often it is tried; other webhooks are told."""
    post.outbox.has_roadmap = False
    async with receiving() as broken:
        broken.answers = [500] * attempts
        tracker = replace(
            hook,
            name="tracker",
            url=broken.url,
            events=frozenset({NoticeKind.REMEDIATION}),
            attempts=attempts,
        )
        post.outbox.webhooks = (tracker, replace(hook, events=hook.events - {NoticeKind.TRIP}))
        post.put_down(TRIP)
        async with post.dispatching():
            await post.until(DELIVERIES, "dead", "delivered")
    (told,) = post.said("remediation_failed")
    assert (told["level"], told["remediation"]) == ("critical", "FIX-BUDGET-BREACH-T")
    assert told["message"] == "Budget stop-loss triggered for T, remediation task creation failed"
    assert told["error"] == "webhook tracker: answered 500"
    ((_, body),) = receiver.seen
    assert json.loads(body)["data"]["message"] == told["message"]


@pytest.mark.parametrize(("takes", "told"), [(False, 1), (True, 0)])
async def test_SL7_with_several_webhooks_it_fails_once_and_only_if_none_takes_it(
    post: Post, receiver: Receiver, hook: WebhookPolicy, takes: bool, told: int
) -> None:
    post.outbox.has_roadmap = False
    trackers = replace(hook, events=frozenset({NoticeKind.REMEDIATION}), attempts=2)
    async with receiving() as broken:
        broken.answers = [500] * 2
        receiver.answers = [] if takes else [500] * 2
        post.outbox.webhooks = (
            replace(trackers, name="one", url=broken.url),
            replace(trackers, name="two"),
        )
        post.put_down(TRIP)
        async with post.dispatching():
            await post.until(DELIVERIES, "dead", "delivered" if takes else "dead")
    assert len(post.said("remediation_failed")) == told


async def test_a_webhook_beside_the_file_is_no_failure_to_make_it(
    post: Post, receiver: Receiver, hook: WebhookPolicy
) -> None:
    post.outbox.webhooks = (replace(hook, events=frozenset({NoticeKind.REMEDIATION}), attempts=1),)
    receiver.answers = [500]
    post.put_down(TRIP)
    async with post.dispatching():
        await post.until(DELIVERIES, "dead")
        await post.until(REMEDIATIONS, "written")
    assert post.said("remediation_failed") == []


# Webhooks -----------------------------------------------------------------------------------------


async def test_GW19_a_notice_is_signed_and_posted_once(post: Post, receiver: Receiver) -> None:
    post.put_down(TRIP)
    post.put_down(TRIP)
    async with post.dispatching():
        await post.until(DELIVERIES, "delivered")
    ((headers, body),) = receiver.seen
    assert headers["x-tollgate-event-id"] == TRIP.id
    assert headers["x-tollgate-event"] == "trip"
    assert headers["content-type"] == "application/json"
    told = json.loads(body)
    assert (told["id"], told["event"], told["task"]) == (TRIP.id, "trip", "T")
    assert told["data"]["used"] == 31_600


async def test_GW19_a_failure_is_tried_again_with_the_same_id(
    post: Post, receiver: Receiver
) -> None:
    """Errors and redirects alike; it is told once."""
    receiver.answers = [503, 302]
    post.put_down(TRIP)
    async with post.dispatching():
        (row,) = await post.until(DELIVERIES, "delivered")
    assert (row["attempts"], row["error"]) == (3, None)
    assert receiver.ids == [TRIP.id] * 3
    assert [told["error"] for told in post.said("webhook_failed")] == ["answered 503"]


async def test_GW19_after_the_last_attempt_it_is_dead_and_listed(
    post: Post, receiver: Receiver
) -> None:
    receiver.answers = [500, 500, 302]
    post.put_down(TRIP)
    async with post.dispatching():
        (row,) = await post.until(DELIVERIES, "dead")
    assert (row["attempts"], row["error"]) == (3, "answered 302: redirects are not followed")
    assert len(receiver.seen) == 3
    assert post.said("webhook_gave_up")[0]["level"] == "error"


async def test_a_receiver_that_never_answers_holds_up_nobody(
    post: Post, receiver: Receiver, hook: WebhookPolicy
) -> None:
    """The other one has its notice while the first is waited for; that is sent again later."""
    slow = replace(hook, name="slow", url=receiver.url, timeout_ms=60_000)
    receiver.answers = [0]
    post.outbox.webhooks = (slow,)
    post.put_down(TRIP)
    async with post.dispatching():
        async with asyncio.timeout(PATIENCE_S):
            while not receiver.seen:
                await asyncio.sleep(0.01)
        post.outbox.webhooks = (slow, hook)
        post.put_down(replace_task(TRIP, "U"))
        await post.until(DELIVERIES, "delivered", "pending", "pending")
    async with post.dispatching():  # after a restart
        await post.until(DELIVERIES, *["delivered"] * 3)
    assert receiver.ids.count(TRIP.id) == 2


def replace_task(notice: Notice, task: str) -> Notice:
    return Notice(notice.kind, notice.key, notice.tenant, task, notice.at_ms, notice.facts)


async def test_time_runs_out(post: Post, receiver: Receiver, hook: WebhookPolicy) -> None:
    post.outbox.webhooks = (replace(hook, timeout_ms=100, attempts=1),)
    receiver.answers = [0]
    post.put_down(TRIP)
    async with post.dispatching():
        (row,) = await post.until(DELIVERIES, "dead")
    assert row["error"] == "no answer within 100 ms"


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://169.254.169.254/latest/meta-data", "which is blocked"),
        ("http://[fe80::1]/hook", "which is blocked"),
        ("http://127.0.0.1:1/hook", "ClientConnectorError"),
    ],
)
async def test_where_nothing_is_posted(
    post: Post, hook: WebhookPolicy, url: str, error: str
) -> None:
    """Link-local and metadata addresses are blocked as for upstreams."""
    post.outbox.webhooks = (replace(hook, url=url, attempts=1),)
    post.put_down(TRIP)
    async with post.dispatching():
        (row,) = await post.until(DELIVERIES, "dead")
    assert error in row["error"]


async def test_nothing_is_sent_unsigned(
    post: Post, receiver: Receiver, hook: WebhookPolicy, tmp_path: Path
) -> None:
    """A secret that cannot be read is a failure; the file is read anew each time."""
    secret = tmp_path / "secret"
    post.outbox.webhooks = (replace(hook, secret_env="", secret_file=str(secret), attempts=9_999),)
    post.put_down(TRIP)
    async with post.dispatching():
        async with asyncio.timeout(PATIENCE_S):
            while not post.said("webhook_failed"):
                await asyncio.sleep(0.01)
        assert "cannot be read" in post.said("webhook_failed")[0]["error"]
        secret.write_bytes(SECRET + b"\n")
        await post.until(DELIVERIES, "delivered")
    assert len(receiver.seen) == 1


async def test_an_empty_secret_and_a_policy_that_is_gone(post: Post, hook: WebhookPolicy) -> None:
    post.outbox.webhooks = (
        replace(hook, secret_env="TOLLGATE_TEST_NOBODY", attempts=1),
        replace(hook, name="gone"),
    )
    post.put_down(TRIP)
    post.outbox.webhooks = post.outbox.webhooks[:1]
    async with post.dispatching():
        rows = await post.until(DELIVERIES, "dead", "dead")
    assert {row["webhook"]: row["error"] for row in rows} == {
        "webhook": "the variable TOLLGATE_TEST_NOBODY holds no secret",
        "gone": "there is no webhook policy gone",
    }


async def test_only_who_holds_the_ledger_sends(post: Post, receiver: Receiver) -> None:
    post.may_send = False
    post.put_down(TRIP)
    async with post.dispatching() as dispatcher:
        await dispatcher.dispatch()
        assert post.rows()[0]["attempts"] == 0
        post.may_send = True
        await post.until(DELIVERIES, "delivered")
    assert len(receiver.seen) == 1


async def test_a_row_that_nobody_expected_stops_nothing(post: Post, receiver: Receiver) -> None:
    """It is told; all other webhooks and notices go on."""
    post.put_down(TRIP)
    with post.engine.begin() as connection:
        connection.execute(REMEDIATIONS.update().values(document="not JSON"))
    async with post.dispatching():
        async with asyncio.timeout(PATIENCE_S):
            while not post.said("dispatch_failed"):
                await asyncio.sleep(0.01)
        with post.engine.begin() as connection:
            connection.execute(REMEDIATIONS.delete())
        await post.until(DELIVERIES, "delivered")
    assert len(receiver.seen) == 1


def test_waits_grow_to_ten_minutes() -> None:
    rules = DispatchRules()
    waits = [rules.wait_ms(attempts) for attempts in range(1, 12)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (1_000, 600_000)
