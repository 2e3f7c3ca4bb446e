"""The error tree: what each error carries."""

import pytest

from gateway.core.errors import (
    BadCall,
    CallError,
    InvalidConfigError,
    InvalidTaskConfigError,
    StoreError,
    TollgateError,
    UpstreamError,
)


@pytest.mark.parametrize(
    ("error", "parent"),
    [
        (InvalidConfigError, TollgateError),
        (InvalidTaskConfigError, TollgateError),
        (CallError, TollgateError),
        (BadCall, CallError),
        (UpstreamError, CallError),
        (StoreError, TollgateError),
    ],
)
def test_the_tree_is_as_drawn(error: type[Exception], parent: type[Exception]) -> None:
    """Each error stands under the parent that the module's drawing shows."""
    assert error.__bases__ == (parent,)


def test_an_invalid_configuration_lists_every_fault() -> None:
    """Not just the first; the text has them all."""
    error = InvalidConfigError(["Missing base budget for phase: MONITOR", "PR: tokens must be > 0"])
    assert error.faults == ["Missing base budget for phase: MONITOR", "PR: tokens must be > 0"]
    assert str(error) == "Missing base budget for phase: MONITOR; PR: tokens must be > 0"


def test_an_invalid_task_names_task_and_field() -> None:
    """So that whoever registered it finds the place."""
    error = InvalidTaskConfigError("T1", "budget_overrides.think.tokens", "must be a number")
    assert (error.task_id, error.field) == ("T1", "budget_overrides.think.tokens")
    assert str(error) == "task T1: budget_overrides.think.tokens: must be a number"


@pytest.mark.parametrize("kind", [CallError, BadCall])
def test_a_call_error_has_a_code_of_the_contract(kind: type[CallError]) -> None:
    """And the message that the client reads."""
    error = kind("invalid_tag", "X-Phase: ...")
    assert (error.code, error.message, str(error)) == (
        "invalid_tag",
        "X-Phase: ...",
        "X-Phase: ...",
    )


@pytest.mark.parametrize("sent", [True, False])
def test_an_upstream_error_tells_whether_it_may_be_billed(sent: bool) -> None:
    """`sent`: a byte of the request may have left."""
    error = UpstreamError("upstream_timeout", "no answer", sent=sent)
    assert (error.code, error.message, error.sent) == ("upstream_timeout", "no answer", sent)


def test_a_store_error_has_a_short_reason() -> None:
    """For a metric's label, beside the text for people."""
    error = StoreError("timeout", "no answer in 250 ms")
    assert (error.reason, str(error)) == ("timeout", "no answer in 250 ms")
