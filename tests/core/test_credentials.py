"""Which headers and parameters speak for an account."""

import pytest

from gateway.core.credentials import (
    AUTH_HEADERS,
    auth_header_of,
    credential,
    without_credentials,
    without_query_credentials,
)


@pytest.mark.parametrize("name", [*AUTH_HEADERS, "Cookie", "OpenAI-Organization", "X-API-KEY"])
def test_what_speaks_for_an_account_is_taken_off(name: str) -> None:
    """In any letter case, each time it stands there."""
    headers = [(name.encode(), b"1"), (b"accept", b"*/*"), (name.upper().encode(), b"2")]
    assert without_credentials(headers) == [(b"accept", b"*/*")]


def test_every_provider_s_header_is_one_that_is_taken_off() -> None:
    for provider in ("anthropic", "AZURE", "azure_ai", "gemini", "groq", ""):
        assert auth_header_of(provider, ("gemini",)) in AUTH_HEADERS
    assert auth_header_of("AZURE", ("openai",)) == "api-key"
    assert auth_header_of("gemini", ("openai",)) == "authorization"


def test_only_authorization_says_bearer() -> None:
    assert credential("authorization", "k") == (b"authorization", b"Bearer k")
    assert credential("api-key", "k") == (b"api-key", b"k")


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        (b"/x", b"/x"),
        (b"/x?a=1&b=%20", b"/x?a=1&b=%20"),
        (b"/x?key=AI", b"/x"),
        (b"/x?a=1&KEY=AI&alt=sse", b"/x?a=1&alt=sse"),
        (b"/x?%6bey=AI&api-key=1&api_key=2&access_token=3&keys=4", b"/x?keys=4"),
        (b"/x?+key=1", b"/x"),
        (b"/x?", b"/x?"),
    ],
)
def test_a_query_loses_its_keys_and_nothing_else(target: bytes, sent: bytes) -> None:
    assert without_query_credentials(target) == sent
