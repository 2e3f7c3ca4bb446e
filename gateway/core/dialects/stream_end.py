"""How a stream is ended from here, in each dialect: whole events that tell the reason as an error.

Source: `docs/wire.md`, what clients make of an error inside a stream. Their SDKs raise it; none
takes the answer for whole.
"""

import json

from msgspec import Struct

REFUSAL_TYPE = "billing_error"
# Codex takes this for final; any other code of a failed response it retries five times.
_FINAL_FOR_CODEX = "insufficient_quota"


class Cut(Struct, frozen=True):
    """Why a stream ends, and what its provider has said so far.

    `answer_id` and `model` are '' where nothing was said; `number` is that of the next event.
    """

    code: str
    message: str
    answer_id: str = ""
    model: str = ""
    number: int = 0


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _error(cut: Cut) -> dict[str, object]:
    return {"message": cut.message, "type": REFUSAL_TYPE, "param": None, "code": cut.code}


def end_of_chat(cut: Cut) -> bytes:
    """Return the end of a stream of chat completions, or of completions."""
    return b"data: " + _json({"error": _error(cut)}) + b"\n\ndata: [DONE]\n\n"


def end_of_response(cut: Cut) -> bytes:
    """Return the end of a stream of the Responses API."""
    event = {
        "type": "response.failed",
        "sequence_number": cut.number,
        "response": {
            "id": cut.answer_id,
            "object": "response",
            "created_at": 0,
            "status": "failed",
            "background": False,
            "error": {"code": _FINAL_FOR_CODEX, "message": f"{cut.message} ({cut.code})"},
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "model": cut.model,
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": None,
        },
    }
    return b"event: response.failed\ndata: " + _json(event) + b"\n\n"


def end_of_messages(cut: Cut) -> bytes:
    """Return the end of a stream of Anthropic messages."""
    error = {"type": "error", "error": {**_error(cut), "details": {"error_code": cut.code}}}
    return b"event: error\ndata: " + _json(error) + b"\n\n"


def end_of_gemini(cut: Cut) -> bytes:
    """Return the end of a stream of Gemini, as events (`alt=sse`)."""
    detail = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": cut.code,
        "domain": "tollgate",
    }
    error = {
        "code": 400,
        "message": cut.message,
        "status": "FAILED_PRECONDITION",
        "details": [detail],
    }
    return b"data: " + _json({"error": error}) + b"\r\n\r\n"


def end_of_ollama(cut: Cut) -> bytes:
    """Return the last line of an Ollama stream."""
    return _json({"error": f"{cut.message} ({cut.code})"}) + b"\n"
