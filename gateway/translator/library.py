"""litellm, imported here and nowhere else, with everything off but translating.

Importing it takes seconds and some 170 MB, and would fetch a price list and read `.env` files if it
was not told otherwise before.
"""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, cast

from gateway.control import FarSide
from gateway.translator.chat import Json
from gateway.translator.far_side import addressed

_BEFORE_IMPORT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_MODE": "PRODUCTION",  # else it reads .env files
}
_LOGGERS = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy")
# Wrappers of litellm around a provider's stream: not all of them pass `aclose` on.
_INNER = (
    "_anthropic_wrapper",
    "completion_stream",
    "streaming_response",
    "response_iterator",
    "_stream",
    "response",
)
_DEEPEST = 8


def load_litellm() -> Any:
    """Import litellm and switch off retries, callbacks, look-ups and what it prints."""
    os.environ.update(_BEFORE_IMPORT)
    import litellm

    litellm.suppress_debug_info = True
    litellm.disable_hf_tokenizer_download = True
    litellm.disable_token_counter = True  # usage that was not reported stays unknown
    litellm.disable_streaming_logging = True
    litellm.turn_off_message_logging = True
    litellm.redact_messages_in_exceptions = True
    litellm.num_retries = 0
    litellm.drop_params = litellm.modify_params = False
    litellm.callbacks, litellm.success_callback, litellm.failure_callback = [], [], []
    for name in _LOGGERS:  # what it logs holds prompts; we say ourselves what went wrong
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return litellm


def _messages_by_chat() -> Any:
    """Return what answers Messages by Chat Completions.

    It is called itself: litellm's front door imports packages for calls with tools, and for OpenAI
    and Anthropic, that it does not depend on (docs/adr/0008).
    """
    from litellm.llms.anthropic.pass_through.adapters import handler

    return handler.LiteLLMMessagesToCompletionTransformationHandler.async_anthropic_messages_handler


class Library:
    """The two ways to call litellm. What goes wrong comes as exceptions of any kind."""

    def __init__(self) -> None:
        self._litellm = load_litellm()
        self._messages_by_chat = _messages_by_chat()

    async def chat(self, far: FarSide, key: str, said: Json) -> Any:
        """Return a Chat Completions answer, or an async iterator of chunks; both are models."""
        if said.get("stream"):
            said = {**said, "stream_options": {"include_usage": True}}
        else:
            said = {name: value for name, value in said.items() if name != "stream_options"}
        arguments = {**said, **addressed(far, said["model"], key)}
        return await self._litellm.acompletion(**arguments, _skip_mcp_handler=True)

    async def messages(self, far: FarSide, key: str, said: Json) -> Any:
        """Return a Messages answer, a dict, or an async iterator of server-sent events."""
        arguments = {**said, **addressed(far, said["model"], key)}
        return await self._messages_by_chat(**arguments, _skip_mcp_handler=True)


async def first_of(stream: AsyncIterator[Any]) -> Any:
    """Return a stream's first chunk, None if it has none: only then has the far side answered."""
    return await anext(stream, None)


async def close_stream(stream: object) -> None:
    """Close a stream down to the connection, so that the provider stops."""
    layers: list[object] = []
    while stream is not None and len(layers) < _DEEPEST:
        layers.append(stream)
        names = (name for name in _INNER if getattr(stream, name, None) is not None)
        stream = getattr(stream, next(names, ""), None)
    for layer in reversed(layers):
        if (aclose := getattr(layer, "aclose", None)) is not None:
            with suppress(Exception):  # it is given up: nobody can do anything about it
                await cast(Any, aclose)()
