"""What a prompt holds beside text, in the shapes of every dialect."""

import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.dialects.prompt_media import TEXT_ONLY, UNBOUNDED, Media, _Reader, media_in
from gateway.core.image_tokens import Image

PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 640, 480) + bytes(300)
DATA = base64.b64encode(PNG).decode()
URL = f"data:image/png;base64,{DATA}"
SIZED = Media((Image(640, 480),), len(DATA))
UNSIZED = Media((Image(),))


def media(value: Any) -> Media:
    return media_in(json.dumps(value).encode())


@pytest.mark.parametrize(
    ("part", "found"),
    [
        ({"type": "image_url", "image_url": {"url": URL}}, SIZED),
        ({"image_url": {"url": URL}}, SIZED),
        ({"type": "image_url", "image_url": URL}, SIZED),
        (
            {"type": "image_url", "image_url": {"url": URL, "detail": "low"}},
            Media((Image(640, 480, "low"),), len(DATA)),
        ),
        ({"type": "image_url", "image_url": {"url": "https://a.example/i.png"}}, UNSIZED),
        ({"type": "image_url", "image_url": {"url": "data:image/png,raw"}}, UNSIZED),
        ({"type": "image_url", "image_url": {"url": 5, "detail": 6}}, UNSIZED),
        ({"type": "image_url"}, UNSIZED),
        ({"type": "input_image", "image_url": URL, "detail": "high"},
         Media((Image(640, 480, "high"),), len(DATA))),
        ({"type": "input_image", "file_id": "file_1", "detail": "low"}, Media((Image(0, 0, "low"),))),
        ({"type": "function_call_output", "output": [{"type": "input_image", "image_url": URL}]},
         SIZED),
        ({"type": "computer_call_output", "output":
          {"type": "computer_screenshot", "image_url": URL}}, SIZED),
        ({"type": "image", "source":
          {"type": "base64", "media_type": "image/png", "data": DATA}}, SIZED),
        ({"type": "image", "source": {"type": "url", "url": "https://a.example/i"}}, UNSIZED),
        ({"type": "tool_result", "content": [{"type": "image", "source": {"data": DATA}}]}, SIZED),
        ({"inlineData": {"mimeType": "image/png", "data": DATA}}, SIZED),
        ({"inline_data": {"mime_type": "image/png", "data": DATA}}, SIZED),
        ({"fileData": {"mimeType": "image/png", "fileUri": "gs://x"}}, UNSIZED),
        ({"functionResponse": {"response": {"type": "file"},
          "parts": [{"inlineData": {"mimeType": "image/png", "data": DATA}}]}}, SIZED),
    ],
)  # fmt: skip
def test_images(part: dict[str, Any], found: Media) -> None:
    """Wherever it stands, an image is known by its size, if that is in the request."""
    assert media([{"role": "user", "content": [{"type": "text", "text": "x"}, part]}]) == found


@pytest.mark.parametrize(
    ("part", "payload"),
    [
        ({"type": "input_audio", "input_audio": {"data": DATA, "format": "wav"}}, len(DATA)),
        ({"type": "file", "file": {"file_data": f"data:application/pdf;base64,{DATA}"}}, len(DATA)),
        ({"type": "file", "file": {"file_id": "file-1"}}, 0),
        ({"type": "input_file", "file_data": f"data:x;base64,{DATA}"}, len(DATA)),
        ({"type": "document", "source": {"type": "text", "data": "so many words " * 50}}, 0),
        ({"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{DATA}"}}, len(DATA)),
        ({"video_url": {"url": "https://a.example/v"}}, 0),
        ({"audio_url": {"url": "https://a.example/v"}}, 0),
        ({"inlineData": {"mimeType": "audio/wav", "data": DATA}}, len(DATA)),
        ({"file_data": {"file_uri": "gs://x"}}, 0),
        ({"type": "item_reference", "id": "msg_1"}, 0),
    ],
)
def test_what_has_no_formula(part: dict[str, Any], payload: int) -> None:
    """Audio, video, documents, and what is kept at the provider; payloads are no text."""
    assert media([{"content": [part]}]) == Media((), payload, is_unbounded=True)


@pytest.mark.parametrize(
    "value",
    [
        "a text that speaks of image_url",
        None,
        5,
        [],
        ["a", ["b"], 5, None],
        [{"role": "user", "content": URL}],
        [{"content": [{"type": "text", "text": URL}]}],
        [{"content": [{"type": ["image"], "inlineData": "x"}]}],
        [{"tool_calls": [{"type": "file"}]}],
        [{"content": [{"type": "tool_use", "input": {"type": "image", "path": "x"}}]}],
        [{"type": "function_call", "arguments": {"type": "file"}}],
        [{"parts": [{"functionCall": {"args": {"image_url": "x"}}}]}],
    ],
)
def test_everything_else_is_text(value: Any) -> None:
    """Also what a model's own calls say of files and images."""
    assert media(value) is TEXT_ONLY


def test_broken_text_hides_no_image() -> None:
    """Half a surrogate pair, or bytes that are no UTF-8, which a strict reader refuses."""
    for text in (b"\\ud800", b"\xff"):
        assert media_in(b'["%b"]' % text) is TEXT_ONLY
        assert media_in(b'["%b",{"image_url":"%b"}]' % (text, URL.encode())) == SIZED


@pytest.mark.parametrize("raw", [b"[", b"[" * 100_000])
def test_what_cannot_be_read_is_unbounded(raw: bytes) -> None:
    """Nothing is known of it."""
    assert media_in(raw) is UNBOUNDED


def test_the_number_of_images_is_bounded() -> None:
    """Ten thousand of them are not remembered one by one."""
    found = media([{"image_url": "x"}] * 1_001)
    assert (len(found.images), found.is_unbounded) == (1_000, True)


def test_depth_does_not_matter() -> None:
    """An image deep down is found without recursion."""
    deep: Any = {"type": "image_url", "image_url": URL}
    for _ in range(200):
        deep = [{"content": deep}]
    assert media(deep) == SIZED


SHAPES = st.recursive(
    st.sampled_from(["x", URL, None, 5, True]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["type", "content", "output", "parts", "image_url", "source", "file_id", "inlineData",
             "file_data", "functionResponse", "input", "text", "video_url"]
        ),
        inner | st.sampled_from(["text", "image", "file", "tool_result", "item_reference"]),
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300, derandomize=True, deadline=None)
@given(SHAPES)
def test_what_is_taken_for_text_has_no_media(value: object) -> None:
    """The decoder that knows text says so of nothing in which the reader finds a medium."""
    assert media(value) == _Reader().read(value)
