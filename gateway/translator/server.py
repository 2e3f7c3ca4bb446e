"""The translator's HTTP server: to a worker a provider of its own dialect, on a unix socket.

`POST /u/<upstream>/.../chat/completions` and `.../v1/messages`. A handler is cancelled when the
worker closes the connection, and takes the far call with it.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

import msgspec
from aiohttp import web

from gateway.control import FarSide
from gateway.translator.chat import DONE, Json, chat_body, chat_events, event
from gateway.translator.errors import Failure, cleaned, failure_of
from gateway.translator.far_side import credential, takes_credential
from gateway.translator.library import close_stream, first_of
from gateway.translator.requests import (
    RequestRefusedError,
    read_chat,
    read_messages,
    refuse_remote_content,
)

_SSE = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
_ERROR_EVENT = b"event: error\n"

Report = Callable[[str, str], None]
"""Told the upstream and the kind of what could not be explained to the client."""


class Calls(Protocol):
    """How litellm is called (`library.Library`)."""

    async def chat(self, far: FarSide, key: str, said: Json) -> Any:
        """Return a Chat Completions answer or an async iterator of chunks."""

    async def messages(self, far: FarSide, key: str, said: Json) -> Any:
        """Return a Messages answer or an async iterator of events."""


class Translator:
    """Answers workers' requests. `most_body_bytes` is what workers take from clients."""

    def __init__(
        self,
        far_sides: Mapping[str, FarSide],
        calls: Calls,
        report: Report,
        most_body_bytes: int,
    ) -> None:
        self._far_sides = far_sides
        self._calls = calls
        self._report = report
        self.app = web.Application(client_max_size=most_body_bytes + 1)
        self.app.router.add_post("/u/{upstream}/{path:.*}", self._answer)
        self.app.router.add_route("*", "/{path:.*}", self._unknown)

    async def _unknown(self, request: web.Request) -> web.StreamResponse:
        return _json(Failure(404, f"{request.method} {request.path} is not a translated route"))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = "/" + request.match_info["path"]
        far = self._far_sides.get(request.match_info["upstream"])
        is_messages = path.endswith("/v1/messages")
        if far is None or not (is_messages or path.endswith("/chat/completions")):
            said = f"{path} is not translated; only chat/completions and v1/messages are"
            return _json(Failure(404, said), is_anthropic=is_messages)
        key = credential(request.headers)
        try:
            if takes_credential(far) and not key:
                raise RequestRefusedError("The request carries no credential.", status=401)
            return await self._call(request, far, key, is_messages=is_messages)
        except RequestRefusedError as error:
            failure = Failure(error.status, error.message, param=error.param)
            return _json(failure, is_anthropic=is_messages)

    async def _call(
        self, request: web.Request, far: FarSide, key: str, *, is_messages: bool
    ) -> web.StreamResponse:
        said = (read_messages if is_messages else read_chat)(await request.read())
        if far.provider != "openai":
            refuse_remote_content(said["messages"])
        ask = self._calls.messages if is_messages else self._calls.chat
        stream: Any = None
        try:
            answer = await ask(far, key, said)
            if not said.get("stream"):
                body = answer if is_messages else chat_body(answer.model_dump(exclude_none=True))
                return web.Response(body=msgspec.json.encode(body), content_type="application/json")
            stream = answer
            first = await first_of(stream)
        except Exception as error:  # of any kind: what litellm raises is not its own alone
            await close_stream(stream)
            return self._failed(request, error, key, is_anthropic=is_messages)
        except BaseException:
            await close_stream(stream)
            raise
        wants_usage = bool((said.get("stream_options") or {}).get("include_usage"))
        words = Words(key, is_messages=is_messages, with_usage=wants_usage)
        return await self._stream(request, stream, first, words)

    def _failed(
        self, request: web.Request, error: Exception, key: str, *, is_anthropic: bool
    ) -> web.StreamResponse:
        """Answer with the far side's error. Without one the call's fate is unknown: break off.

        A worker takes that for what it is, a provider that broke off, and charges the hold.
        """
        failure = failure_of(error, key)
        if failure is not None:
            return _json(failure, is_anthropic=is_anthropic)
        self._report(request.match_info["upstream"], type(error).__name__)
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=502)

    async def _stream(
        self, request: web.Request, stream: AsyncIterator[Any], first: Any, words: "Words"
    ) -> web.StreamResponse:
        answer = web.StreamResponse(headers=_SSE)
        try:
            await answer.prepare(request)
            try:
                if first is not None:
                    await answer.write(words.chunk(first))
                async for chunk in stream:
                    if data := words.chunk(chunk):
                        await answer.write(data)
                await answer.write(words.end)
            except ConnectionError:  # the worker has gone
                raise
            except Exception as error:  # the answer has begun: its end says what happened
                self._report(request.match_info["upstream"], type(error).__name__)
                await answer.write(words.error(error))
            await answer.write_eof()
        finally:
            await close_stream(stream)
        return answer


class Words:
    """How the events of one stream read."""

    def __init__(self, key: str, *, is_messages: bool, with_usage: bool) -> None:
        self._key = key
        self._is_messages = is_messages
        self._with_usage = with_usage
        self.end = b"" if is_messages else DONE

    def chunk(self, chunk: Any) -> bytes:
        """Return one of litellm's chunks as events, empty if it says nothing."""
        if not self._is_messages:
            found = chunk.model_dump(exclude_none=True)
            return b"".join(chat_events(found, with_usage=self._with_usage))
        data = chunk if isinstance(chunk, bytes) else str(chunk).encode()
        return self._error_event(data) if data.startswith(_ERROR_EVENT) else data

    def error(self, error: Exception) -> bytes:
        """Return the event that ends a stream that failed."""
        failure = failure_of(error, self._key) or Failure(500, cleaned(str(error), self._key))
        body = failure.body(is_anthropic=self._is_messages)
        return _ERROR_EVENT + event(body) if self._is_messages else event(body)

    def _error_event(self, data: bytes) -> bytes:
        text = data.partition(b"data:")[2].strip()
        message = ""
        try:
            message = msgspec.json.decode(text)["error"]["message"]
        except (msgspec.DecodeError, KeyError, TypeError):
            message = text.decode("utf-8", "replace")
        failure = Failure(500, cleaned(str(message), self._key))
        return _ERROR_EVENT + event(failure.body(is_anthropic=True))


def _json(failure: Failure, *, is_anthropic: bool = False) -> web.Response:
    return web.Response(
        status=failure.status,
        body=msgspec.json.encode(failure.body(is_anthropic=is_anthropic)),
        content_type="application/json",
        headers=failure.headers,
    )
