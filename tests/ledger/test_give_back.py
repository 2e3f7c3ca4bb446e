"""Windows of spend limits, gateway keys and session bindings are given back, as tasks are."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.core.acts import Act, Verb
from gateway.core.errors import BadCall, StoreError
from gateway.core.keys import Credential, GatewayKey, changed, secret_digest
from gateway.core.sessions import Binding
from gateway.core.spend_limits import LimitScope, SpendLimit
from gateway.core.windows import Span
from gateway.ledger.insert import insert_records
from gateway.ledger.records import forget_sessions
from gateway.ledger.retention import delete_older
from gateway.ledger.schema import AUDIT, CALLS, CARRIED, PHASE_EXECUTIONS, RECORDS
from gateway.ledger.verify import Comparison, Difference
from gateway.ledger.windows import forget_windows
from gateway.store.connection import StoreConnection
from gateway.store.generations import reopen_task
from gateway.store.key_store import KeyRing, KeyStore
from gateway.store.keys import KEYS_KEY
from gateway.store.redis_store import RedisStore
from gateway.store.sessions import bind_session, list_sessions, read_session, unbind_session
from gateway.store.steering import steer_task
from tests.ledger.desk import Desk
from tests.store.agent import Agent, settlement
from tests.store.test_spend_limits import CALLS as COUNT
from tests.store.test_spend_limits import DAILY, SMALL, limit, ms

FOR_GOOD = limit(policy="all", kind=LimitScope.TENANT, name="default", window=Span.LIFETIME)
BY_TEAM = limit(policy="team", kind=LimitScope.TEAM, name="search", window=Span.HOUR)
BY_MODEL = limit(policy="model", kind=LimitScope.MODEL, name="gpt-5/mini", window=Span.MONTH)
EVERY = (DAILY, FOR_GOOD, BY_TEAM, BY_MODEL)
NOON = ms("2024-11-20T12:00+01:00")  # acts of the future are in no sum
TODAY = "daily:key:ab12cd34@2024-11-20"
SECRET = b"s" * 40
FAR_MS = 4 * 10**12


@pytest.fixture
def desk(connection: StoreConnection, tenant: str, tmp_path: Path) -> Desk:
    """A ledger for the tenant."""
    return Desk(tenant, connection, f"sqlite:///{tmp_path / 'ledger.db'}")


@pytest.fixture
def agent(store: RedisStore, tenant: str) -> Agent:
    """An agent with small calls, at noon in Berlin."""
    made = Agent(store, tenant, need=SMALL)
    made.at(NOON)
    return made


async def called(agent: Agent, tokens: int, *spend: SpendLimit) -> None:
    plan, _ = await agent.reserve(spend=spend)
    await agent.store.settle(settlement(plan, tokens, 7 * tokens))


async def windows(desk: Desk) -> dict[str, dict[str, str]]:
    """What is settled in each window, by name."""
    found = {}
    for key in await desk.store.execute("KEYS", desk.keys.window_named("*")):
        raw = await desk.store.execute("HGETALL", key)
        fields = dict(zip(raw[::2], raw[1::2], strict=True))
        found[key.partition(":window:")[2]] = {
            name: value for name, value in fields.items() if name.endswith(".S")
        }
    return found


# Windows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_EC15_GW11_what_was_refused_stays_refused(
    kind: str, agent: Agent, connection: StoreConnection, request: pytest.FixtureRequest
) -> None:
    """Every kind of limit and window: settled, expired, released and corrected charges."""
    if kind == "postgresql":
        url = request.getfixturevalue("postgres").database()
        desk = Desk(agent.tenant, connection, url)
    else:
        desk = request.getfixturevalue("desk")
    await called(agent, 400, *EVERY)
    expired, _ = await agent.reserve(spend=EVERY)
    released, _ = await agent.reserve(spend=(DAILY, FOR_GOOD))
    await agent.store.release(released)
    agent.at(NOON + 40_000)
    assert await agent.store.expire_due(agent.tenant) == [expired.call_id]
    await called(agent, 600, DAILY, FOR_GOOD)
    await called(agent, 5)
    await desk.written()
    before = await windows(desk)
    assert before[TODAY] == {"tokens.S": "1150", "nano_usd.S": "9000", "calls.S": "3"}
    assert set(before) == {
        TODAY,
        "all:tenant:default",
        "team:team:search@2024-11-20T1100Z",
        "model:model:gpt-5/mini@2024-11",
    }
    await desk.flush()
    rebuilt = await desk.rebuild()
    assert rebuilt.windows == 4
    assert await windows(desk) == before
    assert (await desk.rebuild()).windows == 0
    keeps = await desk.store.execute("PTTL", desk.keys.window_named("all:tenant:default"))
    assert (keeps, await desk.store.execute("PTTL", desk.keys.window_named(TODAY)) > 0) == (
        -1,
        True,
    )
    await desk.store.execute("DEL", desk.keys.clock)  # it is today by now, and never runs back
    _, receipt = await agent.reserve(spend=(DAILY,))
    assert (receipt.verdict.value, receipt.stop_code) == ("refused", "spend_limit_exceeded")
    await agent.store.settle(settlement(expired, 1))  # its tombstone knows its windows
    assert (await windows(desk))[TODAY]["tokens.S"] == "1001"


async def test_GW11_verify_compares_windows(agent: Agent, desk: Desk) -> None:
    """Whichever side has more, or has it at all; a window that is over is no longer missed."""
    for _ in range(2):
        await called(agent, 100, *EVERY)
    await agent.reserve(spend=(DAILY,))  # what is held is in no ledger
    await desk.written()
    agreed = await desk.verify()
    assert (agreed.tasks, agreed.windows, agreed.differences) == (1, 4, ())
    today, for_good = desk.keys.window_named(TODAY), desk.keys.window_named("all:tenant:default")
    await desk.store.execute("HINCRBY", today, "tokens.S", 5)
    await desk.store.execute("HINCRBY", for_good, "calls.S", -1)
    unknown = desk.keys.window_named("gone:key:k@2024-11-20")
    await desk.store.execute("HSET", unknown, "nano_usd.S", 3)
    found = await desk.verify()
    assert found.windows == 5
    assert found.differences == (
        Difference("window:all:tenant:default", "calls.S", 1, 2),
        Difference(f"window:{TODAY}", "tokens.S", 205, 200),
        Difference("window:gone:key:k@2024-11-20", "nano_usd.S", 3, 0),
    )
    assert (await desk.verify("T")).differences == ()
    await desk.store.execute("DEL", today, for_good, unknown)
    lost = (await desk.verify()).differences
    assert [one.task for one in lost] == ["window:all:tenant:default"] * 3
    assert {(one.field, one.store, one.ledger) for one in lost} == {
        ("tokens.S", 0, 200),
        ("nano_usd.S", 0, 1_400),
        ("calls.S", 0, 2),
    }


async def test_calls_of_meanwhile_count_once(agent: Agent, desk: Desk) -> None:
    """Before the rebuild, and while it looks at one side and at the other."""
    await called(agent, 100, DAILY)
    await called(agent, 200, DAILY)
    await desk.written()
    await desk.flush()
    await called(agent, 10, DAILY)
    open_call, _ = await agent.reserve(spend=(DAILY,))
    await desk.written()
    late = [(open_call, 1)]

    async def meanwhile(_entry_id: str) -> None:
        while late:
            plan, tokens = late.pop()
            await agent.store.settle(settlement(plan, tokens))
        await desk.written()

    with desk.connect() as ledger:
        await Comparison(desk.store, desk.tenant, ledger, meanwhile).rebuild(3_600_000)
    assert (await windows(desk))[TODAY]["tokens.S"] == "311"
    assert (await windows(desk))[TODAY]["calls.S"] == "4"
    assert (await desk.rebuild()).windows == 0


async def test_a_window_that_is_over_stays_lost(agent: Agent, desk: Desk) -> None:
    """After its end it is kept for corrections for a while, here as in the store."""
    await called(agent, 10, DAILY)
    agent.at(NOON + 86_400_000)
    await called(agent, 20, DAILY)
    agent.at(NOON + 3 * 86_400_000)
    await called(agent, 30, DAILY)
    await desk.written()
    await desk.flush()
    await desk.rebuild()
    labels = {name.partition("@")[2] for name in await windows(desk)}
    assert labels == {"2024-11-21", "2024-11-23"}


async def test_what_retention_deletes_is_carried(agent: Agent, desk: Desk) -> None:
    """For windows that go on; what is carried of one that is over is deleted."""
    await called(agent, 100, DAILY, FOR_GOOD)
    await called(agent, 50, DAILY, FOR_GOOD)
    agent.at(NOON + 60_000)
    await called(agent, 1, DAILY, FOR_GOOD)
    await desk.written()
    before = await windows(desk)
    with desk.connect() as ledger:
        assert delete_older(ledger, desk.tenant, NOON + 1, NOON + 60_000) == 2
    await desk.flush()
    await desk.rebuild()
    assert await windows(desk) == before
    with desk.connect() as ledger:
        forget_windows(ledger, desk.tenant, NOON + 3 * 86_400_000)
        assert delete_older(ledger, desk.tenant, NOON + 60_001, NOON + 3 * 86_400_000) == 1
    carried = {row["task"] for row in desk.rows(CARRIED, "task") if ":" in row["task"]}
    assert carried == {"window:all:tenant:default"}


async def test_a_team_of_two_words_is_one_window(agent: Agent, desk: Desk) -> None:
    """Whatever a team is called (core/spend_limits.py), its holds come back."""
    spaced = limit(policy="team", kind=LimitScope.TEAM, name="two%20words", hard={COUNT: 9})
    await called(agent, 10, spaced)
    raw = await desk.store.execute(
        "HGETALL", desk.keys.window_named("team:team:two%20words@2024-11-20")
    )
    fields = dict(zip(raw[::2], raw[1::2], strict=True))
    assert (fields["tokens.S"], fields["tokens.H"]) == ("10", "0")


# Generations --------------------------------------------------------------------------------------


async def test_G18_the_ledger_knows_the_generation(agent: Agent, desk: Desk) -> None:
    """Of calls and executions; and a reopened task is in its generation after a loss, too."""
    await agent.call("REVIEW", tokens=1)
    act = Act("task.complete", "ann", "done")
    await steer_task(desk.store, desk.keys, "T", Verb.COMPLETE, act, now_ms=str(NOON))
    again = Act("task.reopen", "ann", "reported anew")
    agent.at(NOON + 1)
    await reopen_task(desk.store, desk.keys, "T", again, now_ms=str(NOON + 1))
    await agent.call("REVIEW", tokens=2)
    await agent.call(tokens=3)
    await desk.written()
    assert [(row["tokens"], row["generation"]) for row in desk.rows(CALLS)] == [
        (1, 1),
        (2, 2),
        (3, 2),
    ]
    executions = desk.rows(PHASE_EXECUTIONS, "execution")
    assert [row["generation"] for row in executions] == [1, 2]
    await desk.flush()
    await desk.rebuild()
    told = await desk.store.execute("HMGET", desk.keys.task("T"), "generation", "REVIEW.past")
    assert told == ["2", "1"]


async def test_a_generation_is_the_one_that_a_call_began_in(agent: Agent, desk: Desk) -> None:
    """A refusal has one too; a second act on a call changes nothing in that."""
    plan, _ = await agent.reserve()
    agent.at(NOON + 40_000)
    await agent.store.expire_due(agent.tenant)
    await desk.store.execute("HSET", desk.keys.task("T"), "generation", 3)
    await agent.store.release(plan)
    await desk.store.execute("HSET", desk.keys.task("T"), "state", "killed")
    await agent.reserve()
    await desk.written()
    assert [(row["state"], row["generation"]) for row in desk.rows(CALLS)] == [
        ("released", 1),
        ("refused", 3),
    ]


# Keys ---------------------------------------------------------------------------------------------


def key_of(tenant: str, number: int = 0) -> GatewayKey:
    """A key of the test's tenant; ids are of the whole installation."""
    key_id = f"{abs(hash((tenant, number))) % 10**8:08d}"
    return GatewayKey(key_id, secret_digest(SECRET), "an agent", tenant=tenant, team="search")


async def lose(desk: Desk, *keys: GatewayKey) -> None:
    """Lose the tenant's data and these keys."""
    await desk.flush()
    await desk.store.execute("HDEL", KEYS_KEY, *(key.id for key in keys))


async def test_keys_outlast_a_loss(agent: Agent, desk: Desk) -> None:
    """A good one is good again, a revoked one stays revoked, a rotated one has its new secret."""
    keys, wall = KeyStore(desk.store), lambda: 1_000_000
    good, gone, turned = (key_of(desk.tenant, number) for number in range(3))
    for key in (good, gone, turned):
        await keys.add(key, Act("key.create", "ann", "a new runner", {"name": key.name}))
    ring, proof = KeyRing(keys, wall), Credential(good.id, SECRET, b"x-api-key")
    assert await ring.key_of(proof) == good
    await keys.change(gone.id, lambda key: changed(key, revoked_ms=7))
    digest = secret_digest(b"t" * 40)
    await keys.change(turned.id, lambda key: changed(key, secret_sha256=digest))
    await agent.reserve(key_id=good.id, key_version=str(good.version))
    await desk.written()
    assert {row["document"] is not None for row in desk.rows(RECORDS, "subject")} == {True}
    assert SECRET.decode() not in str(desk.rows(RECORDS, "subject"))
    assert [(row["action"], row["actor"], row["reason"]) for row in desk.rows(AUDIT)] == [
        ("key.create", "ann", "a new runner")
    ] * 3
    await lose(desk, good, gone, turned)

    ring.forget(good.id)
    with pytest.raises(StoreError, match="has lost the gateway key"):  # 503, ask again: no 401
        await ring.key_of(proof)
    rebuilt = await desk.rebuild()
    assert rebuilt.keys == 3
    assert await ring.key_of(proof) == good
    await agent.reserve(key_id=good.id, key_version=str(good.version))
    with pytest.raises(BadCall, match="revoked"):
        await ring.key_of(Credential(gone.id, SECRET, b"x-api-key"))
    with pytest.raises(BadCall, match="not known"):
        await ring.key_of(Credential(turned.id, SECRET, b"x-api-key"))
    now = await keys.read(turned.id)
    assert now is not None
    assert (now.version, now.secret_sha256) == (2, digest)
    assert (await desk.rebuild()).keys == 0


async def test_a_key_that_nobody_here_knew(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """While keys may be lost: no 401; and that is so from the loss to the end of the rebuild."""
    keys, names, own = KeyStore(desk.store), desk.keys, f"keys-of-{desk.tenant}"
    monkeypatch.setattr("gateway.store.key_store.KEYS_KEY", own)
    ring = KeyRing(keys, lambda: 1_000_000, names)
    nobody = Credential("zzzzzzzz", SECRET, b"x-api-key")
    with pytest.raises(StoreError, match="has lost the gateway key"):
        await ring.key_of(nobody)
    await desk.store.execute("SET", names.epoch, "e")  # a new store
    with pytest.raises(BadCall, match="not known"):
        await ring.key_of(nobody)
    await desk.store.execute("SET", names.ledger_rebuild, "1")
    with pytest.raises(StoreError, match="has lost the gateway key"):
        await ring.key_of(nobody)
    await desk.store.execute("DEL", names.ledger_rebuild, names.epoch)
    await keys.add(key_of(desk.tenant))
    with pytest.raises(BadCall, match="not known"):
        await ring.key_of(nobody)
    await desk.flush([own])


async def test_what_the_store_has_newer_stays(desk: Desk) -> None:
    """A key that was revoked since; one of which only the version was lost; an older one."""
    keys = KeyStore(desk.store)
    newer, whole, older = (key_of(desk.tenant, number) for number in range(3))
    for key in (newer, whole, older):
        await keys.add(key)
    await keys.change(older.id, lambda key: changed(key, revoked_ms=7))
    await desk.written()
    await desk.store.execute("HDEL", desk.keys.key_versions, whole.id)
    await desk.store.execute("HDEL", KEYS_KEY, older.id)
    await keys.add(older)
    await keys.change(newer.id, lambda key: changed(key, revoked_ms=9))
    assert (await desk.rebuild()).keys == 2
    found = [await keys.read(key.id) for key in (newer, whole, older)]
    assert [(key.version, key.revoked_ms) for key in found if key] == [(2, 9), (1, None), (2, 7)]
    versions = await desk.store.execute("HGET", desk.keys.key_versions, whole.id)
    assert versions == "1"


async def test_keys_of_before_are_mirrored_when_a_writer_starts(desk: Desk) -> None:
    """Those that an older gateway made, and those whose maker died before it told."""
    key = key_of(desk.tenant)
    await KeyStore(desk.store).add(key)
    await desk.store.execute("DEL", desk.keys.ledger)
    async with desk.writing():
        async with asyncio.timeout(60):
            while True:
                found = await asyncio.to_thread(known_subjects, desk)
                if found == [f"key:{key.id}"]:
                    break
                await asyncio.sleep(0.01)


def known_subjects(desk: Desk) -> list[str]:
    with desk.connect() as ledger:
        if not ledger.dialect.has_table(ledger, "records"):
            return []
    return [row["subject"] for row in desk.rows(RECORDS, "subject")]


async def test_the_latest_version_is_kept_whoever_tells_first(desk: Desk) -> None:
    await desk.written()
    row: dict[str, Any] = {"tenant": desk.tenant, "subject": "key:x", "expires_ms": None}
    with desk.connect() as ledger:
        for version in (2, 3, 1):
            insert_records(ledger, [{**row, "version": version, "document": str(version)}])
        ledger.commit()
    assert [row["document"] for row in desk.rows(RECORDS, "subject")] == ["3"]


# Sessions -----------------------------------------------------------------------------------------


async def test_bindings_outlast_a_loss(desk: Desk) -> None:
    """But for those that were ended, that have expired, or that somebody made anew."""
    store, names = desk.store, desk.keys
    act = Act("session.bind", "orchestrator", "a new phase", {"task": "T"})
    for session in ("kept", "ended", "anew"):
        await bind_session(store, names, session, Binding("T", expires_ms=FAR_MS), act)
    assert await unbind_session(store, names, "ended", Act("session.unbind", "ann", "over"))
    assert not await unbind_session(store, names, "ended", Act("session.unbind", "ann", "over"))
    await desk.written()
    assert [(row["subject"], row["action"], row["actor"]) for row in desk.rows(AUDIT)] == [
        ("session:kept", "session.bind", "orchestrator"),
        ("session:ended", "session.bind", "orchestrator"),
        ("session:anew", "session.bind", "orchestrator"),
        ("session:ended", "session.unbind", "ann"),
    ]
    await desk.flush()
    await bind_session(store, names, "anew", Binding("U", expires_ms=FAR_MS))
    assert (await desk.rebuild()).sessions == 1
    bound = [(await read_session(store, names, one)).binding for one in ("kept", "ended", "anew")]
    assert [binding.task if binding else None for binding in bound] == ["T", None, "U"]
    assert await store.execute("PTTL", names.session("kept")) > 0
    assert {one.id for one in (await list_sessions(store, names, 9)).sessions} == {"kept", "anew"}
    with desk.connect() as ledger:
        forget_sessions(ledger, desk.tenant, FAR_MS + 1)
        ledger.commit()
    assert [row["subject"] for row in desk.rows(RECORDS, "subject")] == ["session:ended"]
