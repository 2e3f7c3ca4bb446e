"""Gateway keys: found in a request, proved, and what they let a call say."""

import pytest
from msgspec import structs

from gateway.core.errors import BadCall, KeyIsOver
from gateway.core.headers import Headers
from gateway.core.identity import Tags
from gateway.core.keys import (
    Credential,
    GatewayKey,
    TagTexts,
    TaskCaps,
    changed,
    find_credential,
    forbidden,
    key_problem,
    public_fields,
    rotated,
    secret_digest,
    tags_under,
    tags_without_key,
    without_keys,
)
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase

SECRET = b"s" * 40
TEXT = b"tg-abcd1234-" + SECRET
KEY = GatewayKey("abcd1234", secret_digest(SECRET), "an agent")


@pytest.mark.parametrize(
    ("headers", "header"),
    [
        ([(b"Authorization", b"Bearer " + TEXT)], b"authorization"),
        ([(b"authorization", b"bearer   " + TEXT + b" ")], b"authorization"),
        ([(b"X-Api-Key", TEXT)], b"x-api-key"),
        ([(b"x-goog-api-key", TEXT)], b"x-goog-api-key"),
        ([(b"Authorization", b"Bearer sk-provider"), (b"X-Tollgate-Key", TEXT)], b"x-tollgate-key"),
        ([(b"x-api-key", b"tg-zzzzzzzz-" + SECRET), (b"x-tollgate-key", TEXT)], b"x-tollgate-key"),
    ],
)
def test_a_key_is_found_where_clients_put_credentials(headers: Headers, header: bytes) -> None:
    assert find_credential(headers) == Credential("abcd1234", SECRET, header)


def test_a_rotation_keeps_the_secret_before_for_its_grace() -> None:
    key = rotated(KEY, b"t" * 40, now_ms=1_000, grace_ms=500)
    assert key.version == KEY.version + 1
    assert key.has_secret(b"t" * 40, 9_999)
    assert (key.has_secret(SECRET, 1_499), key.has_secret(SECRET, 1_500)) == (True, False)


@pytest.mark.parametrize(
    ("over", "state"), [({"revoked_ms": 900}, "revoked"), ({"expires_ms": 1_000}, "expired")]
)
def test_a_key_that_is_over_gets_no_new_secret(over: dict[str, int], state: str) -> None:
    key = structs.replace(KEY, **over)
    assert (KEY.state_at(1_000), key.state_at(1_000)) == ("ok", state)
    with pytest.raises(KeyIsOver, match=f"The key abcd1234 is {state}"):
        rotated(key, b"t" * 40, now_ms=1_000, grace_ms=500)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"Authorization", b"Bearer sk-provider")],
        [(b"Authorization", b"Basic " + TEXT)],
        [(b"x-api-key", b"sk-ant-provider")],
        [(b"X-Other", TEXT)],
    ],
)
def test_credentials_of_providers_are_none_of_ours(headers: Headers) -> None:
    assert find_credential(headers) is None


def test_a_key_that_is_missing_or_no_key_is_told_from_the_head_alone() -> None:
    assert key_problem([(b"x-api-key", TEXT)]) == ""
    assert "X-Tollgate-Key" in key_problem([(b"x-api-key", b"sk-1")])
    assert key_problem([(b"x-api-key", b"tg-1")]) == "x-api-key: this is not a gateway key."


def test_no_key_goes_to_a_provider_wherever_it_stands() -> None:
    theirs: Headers = [
        (b"authorization", b"Bearer sk-1"),
        (b"Accept", b"tg-"),
        (b"x-api-key", b"k"),
    ]
    ours: Headers = [(b"X-Api-Key", TEXT), (b"Authorization", b"Bearer " + TEXT)]
    assert without_keys([*ours, *theirs, *ours]) == theirs


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"Authorization", b"Bearer tg-short"),
        (b"x-api-key", b"tg-ABCD1234-" + SECRET),
        (b"x-api-key", TEXT + b"-more"),
        (b"X-Tollgate-Key", b"sk-provider"),
        (b"X-Tollgate-Key", b""),
    ],
)
def test_what_only_looks_like_a_key_is_refused(name: bytes, value: bytes) -> None:
    with pytest.raises(BadCall) as raised:
        find_credential([(name, value)])
    assert raised.value.code == "invalid_key"
    assert name.decode().lower() in raised.value.message
    assert "tg-" not in raised.value.message


def test_a_secret_proves_its_key_alone() -> None:
    assert KEY.has_secret(SECRET, 0)
    assert not KEY.has_secret(b"t" * 40, 0)


def test_after_a_rotation_the_old_secret_has_a_time_of_grace() -> None:
    new = changed(
        KEY,
        secret_sha256=secret_digest(b"n" * 40),
        previous_sha256=KEY.secret_sha256,
        previous_until_ms=100,
    )
    assert new.version == KEY.version + 1
    assert new.has_secret(b"n" * 40, 1_000)
    assert new.has_secret(SECRET, 99)
    assert not new.has_secret(SECRET, 100)


@pytest.mark.parametrize(
    ("key", "now_ms", "good"),
    [
        (KEY, 10**15, True),
        (changed(KEY, revoked_ms=5), 5, False),
        (changed(KEY, expires_ms=5), 4, True),
        (changed(KEY, expires_ms=5), 5, False),
    ],
)
def test_good_until_revoked_or_expired(key: GatewayKey, now_ms: int, good: bool) -> None:
    assert key.is_good(now_ms) is good


def test_where_calls_may_go() -> None:
    assert KEY.allows_upstream("any")
    assert KEY.allows_model("any")
    assert forbidden(KEY, "any", "any") is None
    some = changed(KEY, upstreams=("openai",), models=("gpt-*", "o3"))
    assert forbidden(some, "openai", "gpt-5") is None
    assert forbidden(some, "openai", None) is None
    for upstream, model, code in (("gemini", "o3", "upstream"), ("openai", "o4", "model")):
        error = forbidden(some, upstream, model)
        assert error is not None
        assert error.code == f"forbidden_{code}"
    assert [some.allows_upstream(name) for name in ("openai", "gemini")] == [True, False]
    assert [some.allows_model(name) for name in ("gpt-5", "o3", "o3-x")] == [True, True, False]


def test_nothing_is_said_of_tags_that_a_key_leaves_alone() -> None:
    tags = Tags(task="T", phase=WorkPhase.PLAN, grace=True)
    assert tags_under(KEY, tags) is tags


def test_a_default_gives_way_to_the_call_and_a_pin_does_not() -> None:
    key = changed(
        KEY,
        pins=TagTexts(task="T-1"),
        defaults=TagTexts(phase=WorkPhase.PLAN, complexity=Complexity.TINY),
    )
    tags = tags_under(key, Tags(phase=WorkPhase.PR))
    assert tags == Tags("T-1", WorkPhase.PR, Complexity.TINY)
    assert tags_under(key, Tags("T-1")).task == "T-1"
    with pytest.raises(BadCall) as raised:
        tags_under(key, Tags("T-2"))
    assert raised.value.code == "forbidden_tag"
    assert "task T-1" in raised.value.message


def test_tags_that_a_key_may_not_set() -> None:
    key = changed(KEY, may_set=("phase",))
    assert tags_under(key, Tags(phase=WorkPhase.PR)).phase is WorkPhase.PR
    for tags in (Tags("T"), Tags(grace=True), Tags(importance=ImportanceTier.LOW)):
        with pytest.raises(BadCall) as raised:
            tags_under(key, tags)
        assert raised.value.code == "forbidden_tag"
        assert "may set: phase" in raised.value.message
    with pytest.raises(BadCall, match="may set: none"):
        tags_under(changed(KEY, may_set=()), Tags("T"))


def test_critical_is_not_for_everybody() -> None:
    """PM6: a header claims at most `high` unless its key may claim more, or is bound to it."""
    claim = Tags(importance=ImportanceTier.CRITICAL)
    assert tags_under(KEY, claim).importance is ImportanceTier.HIGH
    assert tags_under(changed(KEY, may_claim_critical=True), claim) is claim
    bound = changed(KEY, pins=TagTexts(importance=ImportanceTier.CRITICAL))
    assert tags_under(bound, claim).importance is ImportanceTier.CRITICAL


def test_PM6_who_brings_no_key_claims_no_more_where_keys_are_in_use() -> None:
    """Nor is anything else of the call's changed, its session's binding least of all."""
    claim = Tags("T", importance=ImportanceTier.CRITICAL)
    assert tags_without_key(claim, keys_in_use=True).importance is ImportanceTier.HIGH
    assert tags_without_key(claim, keys_in_use=False) is claim
    low = Tags("T", importance=ImportanceTier.LOW)
    assert tags_without_key(low, keys_in_use=True) is low


def test_nothing_of_a_secret_is_shown() -> None:
    shown = public_fields(KEY)
    assert shown["id"] == "abcd1234"
    assert KEY.secret_sha256 not in str(shown)


@pytest.mark.parametrize(
    ("per_hour", "most_open", "caps"),
    [(None, None, None), (3, None, TaskCaps(3)), (None, 4, TaskCaps(open=4))],
)
def test_a_key_may_cap_the_tasks_that_it_begins(
    per_hour: int | None, most_open: int | None, caps: TaskCaps | None
) -> None:
    key = GatewayKey("a1", "digest", "n", tasks_per_hour=per_hour, open_tasks=most_open)
    assert key.task_caps == caps
