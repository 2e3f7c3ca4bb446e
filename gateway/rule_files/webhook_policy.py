"""A policy of kind `webhook` as it stands in a file."""

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from gateway.core.notices import NoticeKind
from gateway.core.policy_base import Mode
from gateway.core.webhook import UNKNOWN_TO_NOTICES, WebhookPolicy
from gateway.findings import rule, suggestion
from gateway.rule_files.policy_document import PolicyDocument, read_mode

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _events(value: object) -> object:
    """Return the kinds of notice that a list names; levels are written as numbers."""
    if not isinstance(value, list):
        raise rule("must be a list", "write it like [80, 100, trip, kill]; [] is all")
    known = {kind.value: kind for kind in NoticeKind}
    found = []
    for item in value:
        word = str(item).strip().lower()
        if isinstance(item, bool) or word not in known:
            raise rule(f"{item!r} is not told", suggestion(word, known))
        found.append(known[word])
    return frozenset(found)


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid, parts = False, urlsplit("")
    if not valid or not value.isascii() or any(mark.isspace() for mark in value):
        raise rule("is not an http(s) address", "write it like https://hooks.example.com/tollgate")
    if parts.username is not None or parts.fragment:
        raise rule("holds credentials or a fragment", "leave them out; notices are signed")
    return value


def _variable(value: str) -> str:
    if value and not _VARIABLE.fullmatch(value):
        raise rule("is no name of a variable", "write it like TOLLGATE_WEBHOOK_SECRET")
    return value


class WebhookDocument(PolicyDocument):
    """Where notices are posted to."""

    kind: Literal["webhook"]
    mode: Annotated[Mode, BeforeValidator(read_mode)] = Mode.ENFORCE
    url: Annotated[str, AfterValidator(_url)]
    events: Annotated[frozenset[NoticeKind], BeforeValidator(_events)] = frozenset()
    secret_file: str = ""
    secret_env: Annotated[str, AfterValidator(_variable)] = ""
    timeout_ms: Annotated[int, Field(ge=100, le=60_000)] = 5_000
    attempts: Annotated[int, Field(ge=1, le=100)] = 10
    allow_link_local: bool = False

    @model_validator(mode="after")
    def _one_secret(self) -> Self:
        if bool(self.secret_file) == bool(self.secret_env):
            raise rule(
                "needs one secret to sign with",
                "name a file by secret_file, or a variable by secret_env",
            )
        if any(getattr(self.match, name) for name in UNKNOWN_TO_NOTICES):
            raise rule(
                f"match by {', '.join(UNKNOWN_TO_NOTICES)} is not known to notices",
                "match by task, phase, tenant, complexity or importance",
            )
        return self

    def policy(self) -> WebhookPolicy:
        """Return the policy as a value."""
        return WebhookPolicy(
            **self.common(),
            url=self.url,
            events=self.events,
            secret_file=self.secret_file,
            secret_env=self.secret_env,
            timeout_ms=self.timeout_ms,
            attempts=self.attempts,
            allow_link_local=self.allow_link_local,
        )
