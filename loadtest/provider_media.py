"""Images, transcriptions and speech as OpenAI answers them, with what they cost in the journal.

Each token of a streamed image comes as a partial image. A recording of `BYTES_PER_SECOND` is billed
by its length under `whisper-1`, by tokens under any other model. Speech reports nothing.
"""

from dataclasses import replace

from loadtest.provider_answers import Call, error_answer, json_answer, sized_answer
from loadtest.provider_ask import Ask, measured, said_as
from loadtest.provider_chat import CREATED_S, Amounts, encode
from loadtest.provider_dialects import Event, Framing, Said, text_of
from loadtest.provider_http import Steps
from loadtest.provider_tokens import count_input

BYTES_PER_SECOND = 8_000  # speech at 64 kbit/s
_TOKENS_PER_SECOND = 10
_IMAGE = "iVBORw0KGgo="
_SOUND = b"ID3" + b"\0" * 997
_TEXT_FORMATS = {"text", "srt", "vtt"}


def images(call: Call, ask: Ask) -> Steps:
    """Images with the tokens of a GPT image model; DALL-E reports none."""
    if ask.prompt is None:
        return error_answer(call, 400, "Missing required parameter: 'prompt'.")
    kind = "image_edit" if call.request.path.endswith("/edits") else "image_generation"
    amounts = _amounts(call, ask, count_input(ask.prompt))
    said = _image(call, ask, amounts, kind)
    return said_as(call, ask, said, amounts, Framing(is_named=True))


def _image(call: Call, ask: Ask, amounts: Amounts, kind: str) -> Said:
    usage: Event = {
        "input_tokens": amounts.prompt,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": amounts.prompt},
        "output_tokens": amounts.completion,
        "total_tokens": amounts.prompt + amounts.completion,
    }
    reported = {} if _lacks_usage(call, ask) else {"usage": usage}
    drawn: Event = {
        "b64_json": _IMAGE,
        "created_at": CREATED_S,
        "size": "1024x1024",
        "quality": "high",
        "background": "opaque",
        "output_format": "png",
    }

    def token(text: str, number: int) -> Event:
        return {"type": f"{kind}.partial_image", "partial_image_index": number - 1, **drawn}

    return Said(
        {"created": CREATED_S, "data": [{"b64_json": _IMAGE}], **reported},
        [],
        token,
        [{"type": f"{kind}.completed", **drawn, **reported}],
        {"type": "error", "error": {"type": "server_error", "message": "It failed."}},
    )


def _lacks_usage(call: Call, ask: Ask) -> bool:
    return call.script.fault == "missing_usage" or ask.model.startswith("dall-e")


def transcription(call: Call, ask: Ask) -> Steps:
    """What a recording says: as JSON, as events, or as subtitles, which report nothing."""
    if not ask.file_bytes:
        return error_answer(call, 400, "Missing required parameter: 'file'.")
    seconds = max(1, ask.file_bytes // BYTES_PER_SECOND)
    if ask.model == "whisper-1":
        call.script = replace(call.script, prompt_tokens=0, completion_tokens=0)
        call.served.seconds = seconds
    amounts = _amounts(call, ask, seconds * _TOKENS_PER_SECOND)
    if ask.response_format in _TEXT_FORMATS:
        call.served.completion_tokens = amounts.completion
        shown = b"1\n00:00:00,000 --> 00:00:01,000\n%b\n" % text_of(call.script, amounts).encode()
        return sized_answer(call, b"text/plain; charset=utf-8", shown)
    return said_as(call, ask, _transcript(call, amounts), amounts, Framing(is_named=True))


def _transcript(call: Call, amounts: Amounts) -> Said:
    usage: Event = {"type": "duration", "seconds": call.served.seconds}
    if not call.served.seconds:
        usage = {
            "type": "tokens",
            "input_tokens": amounts.prompt,
            "input_token_details": {"audio_tokens": amounts.prompt, "text_tokens": 0},
            "output_tokens": amounts.completion,
            "total_tokens": amounts.prompt + amounts.completion,
        }
    shown: Event = {"text": text_of(call.script, amounts)}
    if call.script.fault != "missing_usage":
        shown["usage"] = usage

    def token(text: str, number: int) -> Event:
        return {"type": "transcript.text.delta", "delta": text}

    return Said(
        shown,
        [],
        token,
        [{"type": "transcript.text.done", **shown}],
        {"type": "error", "error": {"type": "server_error", "message": "It failed."}},
    )


def speech(call: Call, ask: Ask) -> Steps:
    """Sound: nothing in it tells what it cost."""
    if ask.input is None:
        return error_answer(call, 400, "Missing required parameter: 'input'.")
    if call.script.broken.kind == "error_event":
        return json_answer(call, encode({}))
    call.served.completion_tokens = _amounts(call, ask, count_input(ask.input)).completion
    return sized_answer(call, b"audio/mpeg", _SOUND)


def _amounts(call: Call, ask: Ask, counted: int) -> Amounts:
    """Note what a call costs: nothing of it is cached or hidden."""
    call.script = replace(call.script, cached_tokens=0, reasoning_tokens=0)
    return measured(call, ask, counted, None)
