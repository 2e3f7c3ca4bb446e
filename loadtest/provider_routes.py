"""The fake provider's routes: which request gets which answer, and what it costs."""

import array
import base64
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec

from loadtest.provider_answers import (
    BYTES,
    SSE,
    Call,
    bytes_answer,
    empty_answer,
    error_answer,
    fault_instead,
    head_only,
    json_answer,
    sized_answer,
    stream_answer,
)
from loadtest.provider_ask import Ask, measured, read_ask, read_form, said_as
from loadtest.provider_bedrock import EVENT_STREAM, BedrockStream, converse
from loadtest.provider_chat import (
    CREATED_S,
    SLOT,
    Amounts,
    chat_body,
    chat_stream,
    encode,
    measure,
)
from loadtest.provider_dialects import (
    Framing,
    anthropic,
    completion,
    gemini,
    ollama,
    responses,
)
from loadtest.provider_http import Steps
from loadtest.provider_media import images, speech, transcription
from loadtest.provider_tokens import count_chat, count_input

_MOST_LATER = 1_024
_LATER: dict[str, dict[str, Any]] = {}  # responses in the background that are done, by id
_DEFAULT_DIMENSIONS = 1536
_MAX_DIMENSIONS = 8192
_MODELS = ("gpt-4o", "gpt-4o-mini", "gpt-5.6", "o4-mini", "text-embedding-3-small")


def route(call: Call) -> Steps:
    """Find the answer to a request. Never fails: what it cannot answer gets an error."""
    request = call.request
    if not request.method:
        return error_answer(call, 400, "The request could not be parsed as HTTP.")
    if call.is_refused:
        return error_answer(call, 401)
    path = request.path
    handler_of_model = _model_route(path) if request.method == "POST" else None
    if handler_of_model is not None:
        return _model_call(call, handler_of_model)
    method = "GET" if request.method == "HEAD" else request.method
    is_later = path.removesuffix("/cancel").rpartition("/")[0].endswith("/responses")
    handler = _later_response if is_later else _OTHER_ROUTES.get((method, path), _unknown)
    steps = fault_instead(call) if call.script.broken.replaces_answer else handler(call)
    return head_only(steps) if request.method == "HEAD" else steps


def _model_route(path: str) -> Callable[[Call, Ask], Steps] | None:
    """Return the handler of a path; of Azure's, Google's and others' the end counts."""
    exact = _MODEL_ROUTES.get(path)
    if exact is not None or (path.startswith("/v1/") and ":" not in path):
        return exact
    found = (handler for ending, handler in _MODEL_ENDINGS if path.endswith(ending))
    return next(found, None)


def _model_call(call: Call, handler: Callable[[Call, Ask], Steps]) -> Steps:
    try:
        ask = _ask_of(call)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return error_answer(call, 400, f"We could not parse the JSON body of your request: {error}")
    call.served.model = ask.model
    call.served.stream = bool(ask.stream)
    if call.script.broken.replaces_answer:
        return fault_instead(call)
    kind, number = call.script.broken
    if kind == "no_stream_options":
        if ask.stream_options is not None:
            return error_answer(call, number or 400, "stream_options: Extra inputs not permitted")
        call.script = replace(call.script, fault="")
    return handler(call, ask)


def _ask_of(call: Call) -> Ask:
    content_type = call.request.header(b"content-type") or b""
    if content_type.startswith(b"multipart/form-data"):
        return read_form(call.request.body, content_type)
    return read_ask(call.request.body)


def _chat(call: Call, ask: Ask) -> Steps:
    if ask.messages is None:
        return error_answer(call, 400, "Missing required parameter: 'messages'.")
    script, served = call.script, call.served
    prompt = ask.chat_tokens if script.prompt_tokens is None else script.prompt_tokens
    amounts = measure(ask.shape, script, prompt)
    served.prompt_tokens = prompt
    served.cached_tokens = amounts.cached
    served.reasoning_tokens = amounts.reasoning * amounts.choices
    if ask.stream:
        return stream_answer(call, chat_stream(ask.shape, script, prompt))
    served.completion_tokens = amounts.completion * amounts.choices
    body = call.fill(chat_body(ask.shape, script, prompt))
    return json_answer(call, body, has_usage=script.fault != "missing_usage")


def _messages(call: Call, ask: Ask) -> Steps:
    if ask.messages is None or ask.max_tokens is None:
        return error_answer(call, 400, "messages and max_tokens: Field required")
    prompt = [{"content": ask.system}, *ask.messages] if ask.system else ask.messages
    amounts = measured(call, ask, count_chat(prompt, ask.tools), ask.max_tokens)
    said = anthropic(ask.model, call.script, amounts)
    return said_as(call, ask, said, amounts, Framing(is_named=True))


def _count_messages(call: Call, ask: Ask) -> Steps:
    return json_answer(call, encode({"input_tokens": count_chat(ask.messages or [], ask.tools)}))


def _responses(call: Call, ask: Ask) -> Steps:
    if ask.input is None:
        return error_answer(call, 400, "Missing required parameter: 'input'.")
    said_before = ask.input if isinstance(ask.input, list) else [{"content": ask.input}]
    prompt = [{"content": ask.instructions}, *said_before] if ask.instructions else said_before
    amounts = measured(call, ask, count_chat(prompt, ask.tools), ask.max_output_tokens)
    said = responses(ask.model, call.script, amounts, background=bool(ask.background))
    if ask.background and not ask.stream:
        _keep_for_later(call, ask, amounts)
    return said_as(call, ask, said, amounts, Framing(is_named=True))


def _keep_for_later(call: Call, ask: Ask, amounts: Amounts) -> None:
    """Finish a response in the background: by the time it is fetched it is there."""
    done = responses(ask.model, call.script, amounts).body | {"background": True}
    if len(_LATER) >= _MOST_LATER:
        _LATER.clear()
    _LATER[f"resp_{call.ident.decode()}"] = msgspec.json.decode(call.fill(encode(done)))


def _later_response(call: Call) -> Steps:
    """A response that was asked for before: fetched, resumed as a stream, or cancelled.

    `x-fake-fault: missing_usage` on cancelling means that it was still running.
    """
    path, _, query = call.request.target.partition("?")
    found = _LATER.get(path.removesuffix("/cancel").rpartition("/")[2])
    if found is None:
        return error_answer(call, 404)
    if path.endswith("/cancel") and call.script.fault == "missing_usage":
        cancelled = {**found, "status": "cancelled", "output": [], "usage": None}
        return json_answer(call, encode(cancelled))
    if "stream=true" not in query:
        return json_answer(call, encode(found))
    event = {"type": "response.completed", "sequence_number": 9, "response": found}
    return sized_answer(call, SSE, b"event: response.completed\ndata: %b\n\n" % encode(event))


def _completions(call: Call, ask: Ask) -> Steps:
    if ask.prompt is None:
        return error_answer(call, 400, "Missing required parameter: 'prompt'.")
    limit = 16 if ask.max_tokens is None else ask.max_tokens
    amounts = measured(call, ask, count_input(ask.prompt), limit)
    include_usage = ask.shape.include_usage and call.script.fault != "missing_usage"
    said = completion(ask.model, call.script, amounts, include_usage=include_usage)
    return said_as(call, ask, said, amounts, Framing(done=b"data: [DONE]\n\n"))


def _gemini(call: Call, ask: Ask) -> Steps:
    contents = ask.contents
    if contents is None:
        return error_answer(call, 400, "contents is not specified")
    path, _, query = call.request.target.partition("?")
    call.served.stream = path.endswith(":streamGenerateContent")
    call.served.model = path.rpartition("/")[2].partition(":")[0]
    ask = replace(ask, stream=call.served.stream, model=call.served.model)
    limit = (ask.generationConfig or {}).get("maxOutputTokens")
    prompt = [{"content": part} for each in contents for part in each.get("parts", ())]
    amounts = measured(call, ask, count_chat(prompt, ask.tools), limit)
    said = gemini(ask.model, call.script, amounts)
    return said_as(call, ask, said, amounts, Framing(is_array="alt=sse" not in query))


def _converse(call: Call, ask: Ask) -> Steps:
    if ask.messages is None:
        return error_answer(call, 400, "messages: required")
    _, _, name, verb = call.request.path.split("/", 3)
    call.served.stream, call.served.model = verb == "converse-stream", unquote(name)
    limit = (ask.inferenceConfig or {}).get("maxTokens")
    prompt = [{"content": ask.system}, *ask.messages] if ask.system else ask.messages
    amounts = measured(call, ask, count_chat(prompt, ask.tools), limit)
    said = converse(call.script, amounts)
    if call.served.stream:
        stream = BedrockStream(said, amounts, call.script, Framing())
        return stream_answer(call, stream, EVENT_STREAM)
    return said_as(call, ask, said, amounts, Framing())


def _ollama(call: Call, ask: Ask) -> Steps:
    """A chat or a completion by Ollama's own API, where a stream is the default."""
    is_chat = call.request.path.endswith("/chat")
    if (ask.messages if is_chat else ask.prompt) is None:
        return error_answer(call, 400, "missing request body")
    ask = replace(ask, stream=ask.stream is not False)
    call.served.stream = bool(ask.stream)
    call.script = replace(call.script, cached_tokens=0, reasoning_tokens=0)
    counted = ask.chat_tokens if is_chat else count_input(ask.prompt)
    amounts = measured(call, ask, counted, (ask.options or {}).get("num_predict"))
    said = ollama(ask.model, call.script, amounts, is_chat=is_chat)
    return said_as(call, ask, said, amounts, Framing(is_lines=True))


def _embeddings(call: Call, ask: Ask) -> Steps:
    if ask.input is None:
        return error_answer(call, 400, "Missing required parameter: 'input'.")
    script = call.script
    prompt = ask.input_tokens if script.prompt_tokens is None else script.prompt_tokens
    call.served.prompt_tokens = prompt
    vector = _vector(ask.dimensions or _DEFAULT_DIMENSIONS, ask.encoding_format == "base64")
    answer: dict[str, Any] = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": vector}
            for index in range(_texts(ask.input))
        ],
        "model": ask.model,
    }
    if script.fault != "missing_usage":
        sent = 0 if script.fault == "zero_usage" else prompt
        answer["usage"] = {"prompt_tokens": sent, "total_tokens": sent}
    return json_answer(call, encode(answer), has_usage="usage" in answer)


def _texts(value: Any) -> int:
    """How many embeddings are asked for: a list of token ids is one text."""
    if not isinstance(value, list) or (value and isinstance(value[0], int)):
        return 1
    return len(value)


@functools.lru_cache(maxsize=32)
def _vector(dimensions: int, as_base64: bool) -> str | list[float]:
    numbers = [((index % 17) - 8) / 64 for index in range(min(dimensions, _MAX_DIMENSIONS))]
    if as_base64:
        return base64.b64encode(array.array("f", numbers).tobytes()).decode()
    return numbers


def _moderations(call: Call, ask: Ask) -> Steps:
    names = ("harassment", "hate", "illicit", "self-harm", "sexual", "violence")
    result = {
        "flagged": False,
        "categories": dict.fromkeys(names, False),
        "category_scores": dict.fromkeys(names, 0.0001),
        "category_applied_input_types": {name: ["text"] for name in names},
    }
    answer = {
        "id": f"modr-{SLOT.decode()}",
        "model": ask.model or "omni-moderation-latest",
        "results": [result for _ in range(_texts(ask.input))],
    }
    return json_answer(call, call.fill(encode(answer)))


def _models(call: Call) -> Steps:
    data = [
        {"id": name, "object": "model", "created": CREATED_S, "owned_by": "fake"}
        for name in _MODELS
    ]
    return json_answer(call, encode({"object": "list", "data": data}))


def _echo(call: Call) -> Steps:
    content_type = call.request.header(b"content-type") or BYTES
    return sized_answer(call, content_type, call.request.body)


def _stream_bytes(call: Call) -> Steps:
    return bytes_answer(call, _size(call, 65_536), chunked=True)


def _until_close(call: Call) -> Steps:
    call.keep_alive = False
    return bytes_answer(call, _size(call, 1_024), chunked=False)


def _size(call: Call, default_bytes: int) -> int:
    given = parse_qs(call.request.target.partition("?")[2]).get("n", [""])[0]
    return int(given) if given.isascii() and given.isdigit() else default_bytes


def _unknown(call: Call) -> Steps:
    request = call.request
    return error_answer(call, 404, f"Invalid URL ({request.method} {request.path})")


_MODEL_ROUTES: dict[str, Callable[[Call, Ask], Steps]] = {
    "/v1/chat/completions": _chat,
    "/v1/embeddings": _embeddings,
    "/v1/moderations": _moderations,
    "/v1/images/generations": images,
    "/v1/images/edits": images,
    "/v1/audio/transcriptions": transcription,
    "/v1/audio/speech": speech,
    "/api/chat": _ollama,
    "/api/generate": _ollama,
    "/v1/messages": _messages,
    "/v1/messages/count_tokens": _count_messages,
    "/v1/responses": _responses,
    "/v1/responses/compact": _responses,
    "/v1/completions": _completions,
}
_MODEL_ENDINGS: tuple[tuple[str, Callable[[Call, Ask], Steps]], ...] = (
    ("/chat/completions", _chat),
    ("/embeddings", _embeddings),
    ("/responses", _responses),
    ("/converse", _converse),
    ("/converse-stream", _converse),
    (":generateContent", _gemini),
    (":streamGenerateContent", _gemini),
)
_OTHER_ROUTES: dict[tuple[str, str], Callable[[Call], Steps]] = {
    ("GET", "/v1/models"): _models,
    ("POST", "/v1/echo"): _echo,
    ("GET", "/v1/stream-bytes"): _stream_bytes,
    ("GET", "/v1/until-close"): _until_close,
    ("GET", "/v1/no-content"): empty_answer,
}
