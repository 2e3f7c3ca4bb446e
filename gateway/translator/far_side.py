"""Where a translated call goes: what litellm calls the provider, its address, its credential."""

from collections.abc import Mapping

from gateway.control import FarSide

# litellm appends the rest of the path; source: its `llms/<provider>` request URLs, measured.
_BASE_PATHS = {"anthropic": "", "bedrock": "", "gemini": "/v1beta", "openai": "/v1"}
_MODEL_PREFIXES = {"bedrock": "bedrock/converse/"}
_BEARER = "bearer "
_KEY_HEADERS = ("x-api-key", "api-key", "x-goog-api-key")


def takes_credential(far: FarSide) -> bool:
    """Return whether calls carry their credential; Bedrock's are the gateway's own AWS ones."""
    return far.provider != "bedrock"


def credential(headers: Mapping[str, str]) -> str:
    """Return the credential that a request carries in whatever header, empty if it has none.

    `headers` are case-insensitive.
    """
    bearer = headers.get("authorization", "")
    if bearer.lower().startswith(_BEARER):
        return bearer[len(_BEARER) :].strip()
    return next((headers[name].strip() for name in _KEY_HEADERS if headers.get(name)), "")


def addressed(far: FarSide, model: str, key: str) -> dict[str, object]:
    """Return the arguments that say where a call goes and that it is tried once.

    The base URL is always given: without one litellm would take it from the environment.
    """
    prefix = _MODEL_PREFIXES.get(far.provider, f"{far.provider}/")
    name = model.removeprefix(f"{far.provider}/")
    path = _BASE_PATHS[far.provider]
    arguments: dict[str, object] = {
        "model": prefix + name,
        "api_base": far.base_url.removesuffix(path) + path,
        "timeout": far.timeout_s,
        "num_retries": 0,
        "max_retries": 0,
    }
    return {**arguments, "api_key": key} if takes_credential(far) else arguments
