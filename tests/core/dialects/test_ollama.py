"""Ollama's own API: what is read of requests; answers are golden files."""

import json

from gateway.core.dialects.ollama import OLLAMA, OLLAMA_EMBED, read_answer


def test_a_request() -> None:
    """It streams unless it says otherwise; the limit stands among the options."""
    body = b'{"model":"llama3.2","prompt":"Hi","options":{"num_predict":50,"top_k":3}}'
    asked = OLLAMA.read(body, b"")
    assert (asked.model, asked.stream, asked.output_limit) == ("llama3.2", True, 50)
    edits = OLLAMA.clamped(body, asked, 20)
    assert json.loads(edits[b"options"]) == {"num_predict": 20, "top_k": 3}
    assert OLLAMA.countable_text(body)[0] == "Hi"


def test_a_request_without_limits() -> None:
    """Below zero is no limit; what was said before is not all in the body."""
    asked = OLLAMA.read(b'{"model":"m","stream":false,"options":{"num_predict":-1}}', b"")
    assert (asked.stream, asked.output_limit, asked.is_open) == (False, None, False)
    body = b'{"model":"m","context":[1,2]}'
    asked = OLLAMA.read(body, b"")
    assert asked.is_open
    assert OLLAMA.clamped(body, asked, 0) == {b"options": b'{"num_predict":1}'}


def test_embeddings_generate_nothing() -> None:
    """They do not stream either."""
    asked = OLLAMA_EMBED.read(b'{"model":"m","input":["a","b"]}', b"")
    assert (asked.stream, asked.output_limit) == (False, 0)


def test_half_a_surrogate_hides_no_usage() -> None:
    """A lenient reader takes over."""
    answer = read_answer(b'{"response":"\\ud83d","prompt_eval_count":5,"eval_count":1}')
    assert answer is not None
    usage = answer.usage_after(None)
    assert usage is not None
    assert (usage.input_total, usage.output_total, answer.text()) == (5, 1, "\ud83d")
