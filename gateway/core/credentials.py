"""Whose credential goes to a provider, and in which header.

Sources: docs.anthropic.com (`x-api-key`), learn.microsoft.com on Azure OpenAI (`api-key`),
ai.google.dev (`x-goog-api-key`, or `?key=`); all others take `Authorization: Bearer`.
"""

from urllib.parse import unquote_plus

from gateway.core.headers import RULES, Headers

AUTHORIZATION = "authorization"
AUTH_HEADERS = (AUTHORIZATION, "x-api-key", "api-key", "x-goog-api-key")
NO_KEY = "none"
"""What `api_key` says where calls go without any credential."""

_HEADER_OF_PROVIDER = {
    "anthropic": "x-api-key",
    "azure": "api-key",
    "azure_ai": "api-key",
    "gemini": "x-goog-api-key",
}
# Beside the credentials themselves, what says whose account they are for: another key's would not
# fit. A cookie may be a session.
_CREDENTIAL_HEADERS = frozenset(
    {
        *(name.encode() for name in AUTH_HEADERS),
        b"cookie",
        b"x-amz-security-token",
        b"x-goog-user-project",
        b"openai-organization",
        b"openai-project",
    }
)
_CREDENTIAL_PARAMETERS = frozenset({"key", "api_key", "api-key", "access_token"})


def auth_header_of(provider: str, families: tuple[str, ...]) -> str:
    """Return the header that a provider reads its key in, by the families of dialects it takes.

    Google's endpoint for OpenAI clients reads what they send.
    """
    header = _HEADER_OF_PROVIDER.get(provider.lower(), AUTHORIZATION)
    return AUTHORIZATION if header == "x-goog-api-key" and "gemini" not in families else header


def credential(header: str, key: str) -> tuple[bytes, bytes]:
    """Return a key as a header's name and value."""
    value = f"Bearer {key}" if header == AUTHORIZATION else key
    return header.encode(), value.encode()


def without_credentials(headers: Headers) -> Headers:
    """Return the headers that speak for no account."""
    return [header for header in headers if RULES[header[0]].lower not in _CREDENTIAL_HEADERS]


def without_query_credentials(target: bytes) -> bytes:
    """Return a request target without the parameters that hold a key, the others as they were."""
    path, mark, query = target.partition(b"?")
    if not mark:
        return target
    kept = [part for part in query.split(b"&") if _parameter(part) not in _CREDENTIAL_PARAMETERS]
    return path + mark + b"&".join(kept) if kept else path


def _parameter(part: bytes) -> str:
    return unquote_plus(part.partition(b"=")[0].decode("latin-1")).strip().lower()
