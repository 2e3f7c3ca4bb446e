"""Gateway keys: who pays for a call, and what the caller may say of it.

A key's text is `tg-<id>-<secret>`. The id is public: it names the key in lists, logs and the
ledger. Of the secret only its SHA-256 is kept. A key is found in a request by its `tg-` alone, in
the headers where clients put credentials; any other credential is the provider's business.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal

from msgspec import Struct, structs

from gateway.core.errors import BadCall, KeyIsOver
from gateway.core.headers import RULES, Headers
from gateway.core.identity import Tags
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase

KEY_TEXT = re.compile(rb"tg-([a-z0-9]{8})-([A-Za-z0-9]{32,64})")
TAG_NAMES = ("task", "phase", "complexity", "importance", "parent", "grace")
NO_KEY = (
    "A gateway key is needed: send it as the client's API key, or in X-Tollgate-Key beside the "
    "provider's. Ask an operator for one (tollgate keys create)."
)
_MARK = b"tg-"
_BEARER = b"bearer "


class TagTexts(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Tags that a key brings along; None is not said."""

    task: str | None = None
    phase: WorkPhase | None = None
    complexity: Complexity | None = None
    importance: ImportanceTier | None = None

    def said(self) -> dict[str, object]:
        """Return what is said, by the tag's name."""
        return {name: value for name, value in structs.asdict(self).items() if value is not None}


NO_TAGS = TagTexts()


class TaskCaps(Struct, frozen=True):
    """How many tasks a key's calls may begin; None is any number."""

    per_hour: int | None = None
    open: int | None = None


class GatewayKey(Struct, frozen=True, omit_defaults=True):
    """One key. Moments are milliseconds since the epoch; None means never.

    `previous_sha256` is the secret before the last rotation, good until `previous_until_ms`. Empty
    `upstreams` or `models` (patterns such as `gpt-*`) allow all. `may_set` names the tags that its
    calls may set, None all of them. `pins` cannot be changed by a call, `defaults` can.
    `may_claim_critical` lets its calls name importance `critical`. `refusal_status` replaces the
    gateway's. `tasks_per_hour` and `open_tasks` cap how many tasks its calls may begin within an
    hour, and have open at a time. `version` grows with every change: a worker's copy of another
    version is stale.
    """

    id: str
    secret_sha256: str
    name: str
    version: int = 1
    tenant: str = "default"
    team: str = ""
    created_ms: int = 0
    expires_ms: int | None = None
    revoked_ms: int | None = None
    previous_sha256: str = ""
    previous_until_ms: int = 0
    upstreams: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    may_set: tuple[str, ...] | None = None
    pins: TagTexts = NO_TAGS
    defaults: TagTexts = NO_TAGS
    may_claim_critical: bool = False
    refusal_status: int | None = None
    tasks_per_hour: int | None = None
    open_tasks: int | None = None

    def is_good(self, now_ms: int) -> bool:
        """Return whether the key may be used: neither revoked nor expired."""
        return self.revoked_ms is None and (self.expires_ms is None or now_ms < self.expires_ms)

    def state_at(self, now_ms: int) -> Literal["ok", "revoked", "expired"]:
        """Return whether it is good, or why not."""
        if self.is_good(now_ms):
            return "ok"
        return "revoked" if self.revoked_ms is not None else "expired"

    def has_secret(self, secret: bytes, now_ms: int) -> bool:
        """Return whether this is the key's secret, or the one before it in its time of grace."""
        digest = secret_digest(secret)
        if hmac.compare_digest(digest, self.secret_sha256):
            return True
        is_old = hmac.compare_digest(digest, self.previous_sha256)
        return is_old and now_ms < self.previous_until_ms

    @property
    def task_caps(self) -> TaskCaps | None:
        """Return how many tasks its calls may begin, None if that is not capped."""
        if self.tasks_per_hour is None and self.open_tasks is None:
            return None
        return TaskCaps(self.tasks_per_hour, self.open_tasks)

    def allows_upstream(self, upstream: str) -> bool:
        """Return whether calls may go to this provider."""
        return not self.upstreams or upstream in self.upstreams

    def allows_model(self, model: str) -> bool:
        """Return whether calls may name this model; letter case counts, as at providers."""
        return not self.models or any(fnmatchcase(model, pattern) for pattern in self.models)


class Credential(Struct, frozen=True):
    """A gateway key as it came: its id, its secret, and the header that it stood in."""

    key_id: str
    secret: bytes
    header: bytes


def secret_digest(secret: bytes) -> str:
    """Return what is kept of a secret: 128 random bits and more need no slow hash."""
    return hashlib.sha256(secret).hexdigest()


def find_credential(headers: Headers) -> Credential | None:
    """Return the gateway key that a request brings, None if it brings none.

    `X-Tollgate-Key` goes first: beside it the client's own credential is for the provider. Raises
    BadCall (`invalid_key`) for text that begins like a key and is none.
    """
    found = [(RULES[name].lower, value) for name, value in headers if RULES[name].may_be_key]
    found.sort(key=lambda header: header[0] != b"x-tollgate-key")
    for name, value in found:
        text = value.strip()
        if name == b"authorization":
            if text[: len(_BEARER)].lower() != _BEARER:
                continue
            text = text[len(_BEARER) :].strip()
        if text.startswith(_MARK) or name == b"x-tollgate-key":
            match = KEY_TEXT.fullmatch(text)
            if match is None:
                raise BadCall("invalid_key", f"{name.decode()}: this is not a gateway key.")
            return Credential(match[1].decode(), match[2], name)
    return None


def key_problem(headers: Headers) -> str:
    """Return why a request that needs a key has none, empty if it brings the text of one."""
    try:
        return NO_KEY if find_credential(headers) is None else ""
    except BadCall as error:
        return error.message


def without_keys(headers: Headers) -> Headers:
    """Return headers without any gateway key: none ever reaches a provider."""
    return [
        (name, value) for name, value in headers if not RULES[name].may_be_key or _MARK not in value
    ]


def with_binding(tags: Tags) -> Tags:
    """Return a call's tags with those that its session is bound to, where it says none itself."""
    binding = tags.session.binding if tags.session is not None else None
    if binding is None:
        return tags
    return structs.replace(tags, task=binding.task, phase=tags.phase or binding.phase)


def tags_without_key(tags: Tags, *, keys_in_use: bool) -> Tags:
    """Return a call's tags, with its session's binding, where no key says what it may claim.

    Where keys are in use, it may claim no more than a key that was given no such right: or leaving
    the key out would be the way to the largest budget.
    """
    tags = with_binding(tags)
    if keys_in_use and claims_critical(tags):
        return structs.replace(tags, importance=ImportanceTier.HIGH)
    return tags


def claims_critical(tags: Tags) -> bool:
    """Return whether a call says of itself that its importance is critical."""
    return tags.importance is ImportanceTier.CRITICAL


def tags_under(key: GatewayKey, tags: Tags) -> Tags:
    """Return a call's tags with those that its key pins or gives.

    What its session is bound to goes before the key's defaults; no key forbids a binding, which an
    orchestrator made.

    Raises BadCall (`forbidden_tag`) where the call says what its key does not let it say.
    """
    _check_may_set(key, tags)
    pins, defaults = key.pins.said(), key.defaults.said()
    for name, value in pins.items():
        said = getattr(tags, name)
        if said is not None and said != value:
            raise BadCall(
                "forbidden_tag",
                f"The gateway key {key.id} is bound to {name} {value}; leave that tag out.",
            )
    tags = with_binding(tags)
    missing = {name: value for name, value in defaults.items() if getattr(tags, name) is None}
    given = {**missing, **pins}
    if _claims_too_much(key, tags):
        given = {"importance": ImportanceTier.HIGH, **given}
    return structs.replace(tags, **given) if given else tags


def _claims_too_much(key: GatewayKey, tags: Tags) -> bool:
    """Return whether a call claims to be critical that may not: it counts as high (PM6)."""
    return claims_critical(tags) and not key.may_claim_critical


def _check_may_set(key: GatewayKey, tags: Tags) -> None:
    if key.may_set is not None:
        for name in TAG_NAMES:
            if name not in key.may_set and getattr(tags, name) not in (None, False):
                allowed = ", ".join(key.may_set) or "none"
                raise BadCall(
                    "forbidden_tag",
                    f"The gateway key {key.id} may not set {name}; it may set: {allowed}.",
                )


def forbidden(key: GatewayKey, upstream: str, *models: str | None) -> BadCall | None:
    """Return why a key does not let a call go to an upstream or models, None if it does."""
    if not key.allows_upstream(upstream):
        message = f"The gateway key {key.id} does not allow the upstream {upstream}."
        return BadCall("forbidden_upstream", message)
    for model in models:
        if model is not None and not key.allows_model(model):
            message = f"The gateway key {key.id} does not allow the model {model!r}."
            return BadCall("forbidden_model", message)
    return None


def changed(key: GatewayKey, **changes: object) -> GatewayKey:
    """Return the key with changes, as its next version."""
    return structs.replace(key, version=key.version + 1, **changes)


def rotated(key: GatewayKey, secret: bytes, *, now_ms: int, grace_ms: int) -> GatewayKey:
    """Return the key with a new secret; the one before is good for the time of grace.

    Raises KeyIsOver for one that no call is let through with: nor would it be with the new secret.
    """
    state = key.state_at(now_ms)
    if state != "ok":
        raise KeyIsOver(
            f"The key {key.id} is {state}: a new secret would not be good either. Remedy: make "
            "another key."
        )
    return changed(
        key,
        secret_sha256=secret_digest(secret),
        previous_sha256=key.secret_sha256,
        previous_until_ms=now_ms + grace_ms,
    )


def public_fields(key: GatewayKey) -> Mapping[str, object]:
    """Return everything of a key that may be shown: no digest of a secret."""
    hidden = {"secret_sha256", "previous_sha256"}
    return {name: value for name, value in structs.asdict(key).items() if name not in hidden}
