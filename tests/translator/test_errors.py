"""Errors in the client's words: the provider's status and message, no key, no class names."""

import httpx
import pytest

from gateway.translator.errors import Failure, cleaned, failure_of

KEY = "secret-of-the-client"
REQUEST = httpx.Request("POST", "http://far/")


class WrappedError(Exception):
    """As litellm wraps them: another status, a response without a body."""

    def __init__(self, message: str, status_code: int = 500) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.response = httpx.Response(status_code, request=REQUEST)


def wrapped(inner: BaseException, status_code: int = 503) -> WrappedError:
    error = WrappedError(f"litellm.ServiceUnavailableError: {inner}", status_code)
    error.__context__ = inner
    return error


def answered(status: int, text: str, **headers: str) -> WrappedError:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx.Response(status, text=text, headers=names, request=REQUEST)
    return wrapped(httpx.HTTPStatusError("Client error", request=REQUEST, response=response))


@pytest.mark.parametrize(
    ("text", "message", "kind", "code"),
    [
        ('{"error":{"message":"Slow","type":"tokens","code":"limit"}}', "Slow", "tokens", "limit"),
        (
            '{"error":{"type":"overloaded_error","message":"Busy"}}',
            "Busy",
            "overloaded_error",
            None,
        ),
        ('{"error":{"code":429,"message":"Quota","status":"EXHAUSTED"}}', "Quota", "", None),
        ('[{"error":{"code":429,"message":"Quota"}}]', "Quota", "", None),
        ('{"message":"Too many requests"}', "Too many requests", "", None),
        ("<html>no</html>", "<html>no</html>", "", None),
        ("", "The call failed.", "", None),
        ("7", "7", "", None),
    ],
)
def test_the_providers_own_answer_is_told(
    text: str, message: str, kind: str, code: str | None
) -> None:
    """Not the status that litellm made of it."""
    failure = failure_of(answered(429, text), KEY)
    assert failure == Failure(429, message, kind=kind, code=code)


def test_headers_that_rule_retries_are_kept() -> None:
    failure = failure_of(answered(429, "", retry_after="7", x_should_retry="false", via="x"), KEY)
    assert failure is not None
    assert failure.headers == {"retry-after": "7", "x-should-retry": "false"}


def test_an_unread_answer_has_a_status_at_least() -> None:
    response = httpx.Response(500, stream=httpx.ByteStream(b"x"), request=REQUEST)
    error = httpx.HTTPStatusError("Server error", request=REQUEST, response=response)
    failure = failure_of(wrapped(error), KEY)
    assert failure is not None
    assert failure.status == 500


def test_who_was_never_reached() -> None:
    failure = failure_of(wrapped(httpx.ConnectError("refused")), KEY)
    assert failure is not None
    assert (failure.status, failure.code) == (502, "upstream_unreachable")


def test_a_request_that_litellm_does_not_take() -> None:
    """Nothing was sent."""
    text = "litellm.UnsupportedParamsError: anthropic does not support parameters: ['seed']"
    failure = failure_of(WrappedError(text, 400), KEY)
    assert failure == Failure(400, "anthropic does not support parameters: ['seed']")


def test_missing_aws_credentials() -> None:
    error = type("NoCredentialsError", (Exception,), {"__module__": "botocore.exceptions"})
    failure = failure_of(wrapped(error("Unable to locate credentials")), KEY)
    assert failure == Failure(500, "AWS credentials: Unable to locate credentials")


@pytest.mark.parametrize(
    "error", [KeyError("usage"), wrapped(httpx.ReadTimeout("late")), WrappedError("odd", 422)]
)
def test_an_unknown_fate_is_no_answer(error: Exception) -> None:
    """It was sent, and may be billed."""
    assert failure_of(error, KEY) is None


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("litellm.RateLimitError: RateLimitError: OpenAIException - Slow down", "Slow down"),
        ("litellm.BadRequestError: AnthropicException - Bad. Handle with `litellm.X`.", "Bad."),
        ("litellm.APIConnectionError: odd\nTraceback (most recent call last):\n x", "odd"),
        (f"key {KEY} is wrong", "key *** is wrong"),
        ("Incorrect API key provided: sk-abcdef123456", "Incorrect API key provided: ***"),
        ("key AIzaSyA1234567890 and AKIAIOSFODNN7EXAMPLE", "key *** and ***"),
        ("Plain words: they stay - all", "Plain words: they stay - all"),
        ("", "The call failed."),
    ],
)
def test_texts_are_cleaned(text: str, clean: str) -> None:
    assert cleaned(text, KEY) == clean


def test_shapes() -> None:
    """OpenAI's and Anthropic's; a provider's own type goes before the status's."""
    failure = Failure(429, "Slow", code="c", param="p")
    assert failure.body(is_anthropic=False) == {
        "error": {"message": "Slow", "type": "rate_limit_error", "param": "p", "code": "c"}
    }
    assert failure.body(is_anthropic=True) == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "Slow"},
    }
    kinds = [Failure(s, "").body(is_anthropic=True)["error"]["type"] for s in (400, 401, 529)]
    assert kinds == ["invalid_request_error", "authentication_error", "api_error"]
    assert Failure(500, "", kind="own").body(is_anthropic=True)["error"]["type"] == "own"
