"""Estimates: bounds that bound, whatever the text; and what a model is expected to put out."""

import base64
import functools
import importlib.util
import json
import random
from pathlib import Path

import pytest
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.core.dialects.openai_chat import countable_text, read_request
from gateway.core.dialects.prompt_media import TEXT_ONLY, Media
from gateway.core.estimate import (
    InputEstimate,
    LearnedInput,
    LearnedOutput,
    counted_input,
    estimate_input,
    least_output,
    output_ceiling,
)
from gateway.core.image_tokens import Image

IMAGE = base64.b64encode(random.Random(1).randbytes(3_000)).decode()


@functools.cache
def o200k() -> tiktoken.Encoding:
    """Return the encoding from the litellm package's files: never over the network."""
    spec = importlib.util.find_spec("litellm")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0], "litellm_core_utils", "tokenizers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
        return tiktoken.get_encoding("o200k_base")


def counted(body: bytes) -> int:
    text, overhead = countable_text(body)
    return overhead + len(o200k().encode_ordinary(text))


# Texts that tokenise well and badly: words, blanks by the hundred, rare scripts, hexadecimal.
PIECE = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["hello ", "    ", "\n\n", "def f(x):\n\treturn x\n", "\u00e9", "字", "\U0001f469"]
    ),
    st.binary(max_size=30).map(bytes.hex),
    st.binary(max_size=30).map(lambda data: base64.b64encode(data).decode()),
)
TEXTS = st.lists(
    st.builds(lambda piece, times: piece * times, PIECE, st.sampled_from([1, 1, 3, 200])),
    max_size=4,
).map("".join)
CONVERSATIONS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": TEXTS},
        optional={"name": st.text(max_size=5)},
    ),
    min_size=1,
    max_size=4,
)


def estimate_of(
    body: bytes, context: int | None = None, model: str = "gpt-4o", *, is_open: bool = False
) -> InputEstimate:
    """Return the estimate of a chat body."""
    media = read_request(body).media
    return estimate_input(model, len(body), media, context, is_open=is_open)


@settings(max_examples=120, derandomize=True, deadline=None)
@given(CONVERSATIONS, st.booleans())
@example([{"role": "user", "content": " " * 100_000}], True)
@example([{"role": "user", "content": "\x00" * 10_000}], True)
@example([{"role": "user", "content": "\N{BUG}" * 10_000}], True)
@example([{"role": "user", "content": "base64," + "A1b2" * 10_000}], False)
@example([{"role": "user", "content": "<|endoftext|>" * 100}], False)
def test_the_bounds_bound(messages: list[dict[str, str]], ensure_ascii: bool) -> None:
    """Whatever the text and however it is encoded: low <= what is counted <= high."""
    body = json.dumps({"model": "gpt-4o", "messages": messages}, ensure_ascii=ensure_ascii).encode()
    estimate = estimate_of(body)
    assert estimate.low <= counted(body) <= estimate.high
    assert estimate.low <= estimate.expected <= estimate.high


def test_the_longest_token_is_what_the_lower_bound_says() -> None:
    """No token of o200k is longer than 128 bytes."""
    assert max(map(len, o200k().token_byte_values())) == 128


def test_a_plain_body() -> None:
    """768 bytes a token at the most, 4 as a rule, 1 at the least."""
    assert estimate_input("gpt-4o", 7_681, TEXT_ONLY, 500) == InputEstimate(
        10, 1_921, 7_681, text=1_921
    )
    assert estimate_input("gpt-4o", 0, TEXT_ONLY, None) == InputEstimate(0, 1, 1, text=1)


def message(*parts: object) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": parts}]}).encode()


TEXT_PART = {"type": "text", "text": "what is this?"}


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"[:-20] + "\\/"}},
        {"type": "input_audio", "input_audio": {"data": IMAGE, "format": "wav"}},
        {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{IMAGE}"}},
        {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{IMAGE}"}},
    ],
)
def test_base64_is_left_out(part: dict[str, object]) -> None:
    """A payload is no text: what is expected comes from the rest of the body, and the image."""
    body = message(TEXT_PART, part)
    estimate = estimate_of(body, 128_000)
    assert len(body) > len(IMAGE) > 300 > estimate.expected - estimate.images
    assert estimate.images == (765 + 680 if part["type"] == "image_url" else 0)


@pytest.mark.parametrize(
    "part",
    [
        {"audio_url": {"url": "https://a.example/1.wav"}},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "file", "file": {"file_id": "file-1"}},
    ],
)
def test_what_no_formula_bounds_may_fill_the_context(part: dict[str, object]) -> None:
    """Audio and files: both bounds are the context, for counting text tells nothing."""
    body = message(TEXT_PART, part)
    expected = -(-len(body) // 4)
    assert estimate_of(body, 128_000) == InputEstimate(128_000, expected, 128_000)
    assert estimate_of(body) == InputEstimate(200_000, expected, 200_000)
    assert estimate_of(body + b" " * 300_000, 128_000).high == len(body) + 300_000
    assert estimate_of(body.replace(b'": "', b'"\n:\t"'), 9_000).high == 9_000


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://a.example/1.png"}},
        {"image_url": "https://a.example/1.png"},
    ],
)
def test_an_image_of_unknown_size_is_bounded_by_what_the_model_takes(
    part: dict[str, object],
) -> None:
    """Eight tiles for gpt-4o; nothing bounds one for a model without a formula."""
    body = message(TEXT_PART, part)
    estimate = estimate_of(body, 128_000)
    assert (estimate.high, estimate.images) == (len(body) + 1_445, 1_445)
    assert estimate.low < 10
    assert estimate_of(body, 128_000, "somebody/else").low == 128_000


def test_a_model_whose_tokenizer_is_not_known_is_not_worth_counting() -> None:
    """Its bound stays the bytes, whatever o200k counts: no lower bound asks for a count."""
    body = message(TEXT_PART)
    for model, expected in (("claude-sonnet-4-6", 29), ("claude-opus-5", 40), ("llama", 22)):
        estimate = estimate_of(body, 128_000, model)
        assert (estimate.low, estimate.expected, estimate.high) == (
            len(body),
            expected,
            len(body),
        )


def test_a_body_of_many_megabytes_is_not_worth_counting() -> None:
    """It would take seconds."""
    assert estimate_input("gpt-4o", 8_000_000, TEXT_ONLY, None).low == 10_416
    assert estimate_input("gpt-4o", 8_000_001, TEXT_ONLY, None).low == 8_000_001


def test_a_tool_with_such_parameters_is_only_text() -> None:
    """A tool schema that has a parameter `file`, or a text that speaks of images, is bounded."""
    parameters = {
        "properties": {"file": {"type": "string"}, "input_audio": {}},
        "required": ["file"],
    }
    tools = [{"type": "function", "function": {"name": "image_url", "parameters": parameters}}]
    body = json.dumps({"tools": tools, "messages": [{"content": '"type": "file"'}]}).encode()
    assert estimate_of(body, 128_000).high == len(body)


def test_base64_in_plain_text_is_text() -> None:
    """It is billed as text, so bounds and expectation keep it."""
    body = message({"type": "text", "text": f"base64,{IMAGE}"})
    estimate = estimate_of(body, 128_000)
    assert estimate.high == len(body)
    assert estimate.expected == -(-len(body) // 4)


def test_a_counted_input_is_exact() -> None:
    """Once counted, all three figures are one; what it was taken for stays, to learn from."""
    estimate = InputEstimate(10, 20, 900, text=15, images=5)
    exact = counted_input(estimate, "gpt-4o", TEXT_ONLY, 300)
    assert exact == InputEstimate(300, 300, 300, text=15, images=5)
    two = Media(images=(Image(), Image(512, 512)))
    assert counted_input(estimate, "gpt-4o", two, 300).high == 300 + 1_445 + 255
    assert counted_input(estimate, "claude-opus-5", TEXT_ONLY, 300).high == 540
    assert counted_input(estimate, "no-formula", two, 300).high == 300


def test_a_text_that_cannot_be_counted_is_bounded_by_its_bytes() -> None:
    """And nothing asks to count it again."""
    estimate = InputEstimate(10, 20, 900, text=15)
    assert counted_input(estimate, "gpt-4o", TEXT_ONLY, None) == InputEstimate(
        900, 900, 900, text=15
    )


# Learned input --------------------------------------------------------------------------------

PLAIN = InputEstimate(1, 1_000, 4_000, text=1_000)


def test_an_estimate_is_corrected_by_what_calls_reported() -> None:
    """From the first call on; its bounds stay as they are."""
    learned = LearnedInput()
    assert learned.corrected("m", PLAIN) is PLAIN
    learned.learn("m", PLAIN, 1_500)
    assert learned.corrected("m", PLAIN) == InputEstimate(1, 1_500, 4_000, text=1_000)
    assert learned.corrected("n", PLAIN) is PLAIN


def test_later_and_longer_calls_weigh_more() -> None:
    """Each call's weight falls by a tenth with each that follows; a short one moves little."""
    learned = LearnedInput()
    for _ in range(100):
        learned.learn("m", PLAIN, 1_000)
    for _ in range(30):
        learned.learn("m", PLAIN, 2_000)
    assert 1_900 < learned.corrected("m", PLAIN).expected < 2_000
    learned.learn("m", InputEstimate(1, 2, 8, text=2), 8)
    assert 1_900 < learned.corrected("m", PLAIN).expected < 2_000


def test_images_are_no_part_of_what_is_learned_of_text() -> None:
    """They come off what was reported, and on top of what is corrected."""
    learned = LearnedInput()
    with_image = InputEstimate(1, 1_765, 9_000, text=1_000, images=765)
    learned.learn("m", with_image, 2_765)
    assert learned.corrected("m", PLAIN).expected == 2_000
    assert learned.corrected("m", with_image).expected == 2_765


@pytest.mark.parametrize(("reported", "expected"), [(10**9, 4_000), (1, 125)])
def test_what_is_learned_is_bounded(reported: int, expected: int) -> None:
    """By an eighth below, by the upper bound (or eightfold) above."""
    learned = LearnedInput()
    learned.learn("m", PLAIN, reported)
    assert learned.corrected("m", PLAIN).expected == expected


def test_nothing_is_learned_from_calls_whose_input_is_not_in_the_body() -> None:
    """Nor from none, nor are such calls corrected."""
    learned, opened = LearnedInput(), InputEstimate(200_000, 10, 200_000)
    learned.learn("m", opened, 50_000)
    learned.learn("m", PLAIN, 0)
    assert learned.corrected("m", PLAIN) is PLAIN
    learned.learn("m", PLAIN, 2_000)
    assert learned.corrected("m", opened) is opened


def test_the_model_learned_first_goes_when_there_are_too_many() -> None:
    """1,024 are kept."""
    learned = LearnedInput()
    for number in range(1_024):
        learned.learn(f"m{number}", PLAIN, 2_000)
    learned.learn("m5", PLAIN, 2_000)
    assert learned.corrected("m0", PLAIN).expected == 2_000
    learned.learn("new", PLAIN, 2_000)
    assert learned.corrected("m0", PLAIN) is PLAIN
    assert learned.corrected("m1", PLAIN).expected == 2_000


# Output ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "choices", "of_model", "ceiling"),
    [
        (100, 1, 16_384, 100),
        (100, 3, 16_384, 300),
        (0, 1, 16_384, 0),
        (None, 1, 16_384, 16_384),
        (None, 2, 16_384, 32_768),
        (None, 1, None, 128_000),
        (None, 1, 0, 128_000),
        (-1, 1, 16_384, 16_384),
        (-1, 1, None, 128_000),
        (100, 0, None, 100),
    ],
)
def test_output_ceiling(
    asked: int | None, choices: int, of_model: int | None, ceiling: int
) -> None:
    """What is asked for, else what the model can do, else 128,000; for every choice."""
    assert output_ceiling(asked, choices, of_model) == ceiling


@pytest.mark.parametrize(("ceiling", "least"), [(0, 0), (5, 5), (1_024, 1_024), (9_999, 1_024)])
def test_least_output(ceiling: int, least: int) -> None:
    """A call is worth admitting for 1,024 tokens, or for all it asks for."""
    assert least_output(ceiling) == least


# Learned output -------------------------------------------------------------------------------


def learned(outputs: list[int]) -> LearnedOutput:
    learned = LearnedOutput()
    for tokens in outputs:
        learned.learn("m", "PLAN", tokens)
    return learned


def test_before_twenty_calls_2048_are_expected() -> None:
    """Or the ceiling, if that is lower."""
    few = learned([9] * 19)
    assert few.expected("m", "PLAN", 128_000) == 2_048
    assert few.expected("m", "PLAN", 100) == 100
    assert LearnedOutput().expected("m", "PLAN", 128_000) == 2_048


@pytest.mark.parametrize(
    ("calls", "p90"), [(20, 18), (21, 19), (29, 27), (30, 27), (31, 28), (100, 90), (256, 231)]
)
def test_p90_by_nearest_rank(calls: int, p90: int) -> None:
    """The smallest output that nine in ten calls did not exceed, in whatever order they came."""
    outputs = list(range(1, calls + 1))
    random.Random(calls).shuffle(outputs)
    assert learned(outputs).expected("m", "PLAN", 128_000) == p90


def test_the_ceiling_caps_what_was_learned() -> None:
    """A call cannot put out more than it may."""
    assert learned([5_000] * 20).expected("m", "PLAN", 700) == 700


def test_only_the_last_256_calls_count() -> None:
    """The 257th call pushes the first one out, not the smallest or the largest."""
    old_large = learned([9_999] * 26 + [10] * 230)
    assert old_large.expected("m", "PLAN", 128_000) == 9_999
    old_large.learn("m", "PLAN", 10)
    assert old_large.expected("m", "PLAN", 128_000) == 10
    assert learned([1] * 300 + [7] * 256).expected("m", "PLAN", 128_000) == 7


def test_models_and_phases_are_learned_apart() -> None:
    """What one model in one phase does says nothing of another."""
    one = learned([5] * 20)
    assert one.expected("m", "PLAN", 128_000) == 5
    assert one.expected("m", "THINK", 128_000) == 2_048
    assert one.expected("n", "PLAN", 128_000) == 2_048


def test_the_oldest_key_goes_when_there_are_too_many() -> None:
    """1,024 keys are kept; one more drops the key that was first learned, and only that one."""
    many = learned([5] * 20)
    many.learn("second", "", 1)
    for number in range(1_022):
        many.learn(f"m{number}", "", 1)
    assert many.expected("m", "PLAN", 128_000) == 5
    for _ in range(20):
        many.learn("second", "", 3)
    many.learn("new", "", 1)
    assert many.expected("m", "PLAN", 128_000) == 2_048
    assert many.expected("second", "", 128_000) == 3


def test_input_that_is_not_all_in_the_body_has_no_bound_but_the_context() -> None:
    """Counting the body would not narrow it."""
    estimate = estimate_of(b'{"a":1}', 1_000, is_open=True)
    assert (estimate.low, estimate.high) == (1_000, 1_000)


def test_the_least_output_is_what_the_api_takes() -> None:
    """But never more than the ceiling."""
    assert least_output(5_000, 2_000) == 2_000
    assert least_output(5_000) == 1_024
    assert least_output(500, 2_000) == 500
