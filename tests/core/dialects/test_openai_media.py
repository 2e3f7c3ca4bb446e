"""Images, transcriptions and speech: what is read of requests; answers are golden files."""

import json

import pytest

from gateway.core.dialects.openai_media import OPENAI_AUDIO, OPENAI_IMAGES, OPENAI_SPEECH
from gateway.core.errors import BadCall
from gateway.core.usage import Modalities, Usage
from tests.core.test_multipart import FILE, KIND, form, part


def test_a_request_for_images() -> None:
    """Each may cost what the largest costs; the limit cannot be lowered."""
    body = json.dumps({"model": "gpt-image-1", "prompt": "A cat", "n": 3, "stream": True}).encode()
    asked = OPENAI_IMAGES.read(body, b"")
    assert (asked.model, asked.stream, asked.choices) == ("gpt-image-1", True, 3)
    assert asked.output_limit == 6_240
    assert asked.least_limit == 3 * 6_240
    assert asked.pieces == Usage(images=3, terms="standard/1024x1024")
    assert OPENAI_IMAGES.clamped(body, asked, 5) == {}
    assert OPENAI_IMAGES.countable_text(body) == ("A cat", 0)


def test_dall_e_is_billed_by_the_piece() -> None:
    """And makes no tokens."""
    asked = OPENAI_IMAGES.read(b'{"model":"dall-e-3","prompt":"A cat"}', b"")
    assert (asked.output_limit, asked.pieces) == (
        0,
        Usage(images=1, terms="standard/1024x1024"),
    )


@pytest.mark.parametrize(
    ("fields", "terms"),
    [
        ({"size": "1024x1792", "quality": "hd"}, "hd/1024x1792"),
        ({"size": "auto"}, ""),
        ({"quality": "auto", "size": "512x512"}, "standard/512x512"),
        ({"quality": "high " * 9}, ""),
        ({"quality": 5, "size": None}, ""),
    ],
)
def test_what_an_image_is_asked_for_changes_its_price(
    fields: dict[str, object], terms: str
) -> None:
    """In JSON and in a form alike; what is not understood is not said."""
    body = json.dumps({"model": "dall-e-3", "prompt": "A cat", **fields}).encode()
    assert OPENAI_IMAGES.read(body, b"").pieces == Usage(images=1, terms=terms)
    parts = [
        part(str(said or "").encode(), b'form-data; name="%s"' % name.encode())
        for name, said in fields.items()
    ]
    assert OPENAI_IMAGES.read_form is not None
    asked = OPENAI_IMAGES.read_form(form([part(b"dall-e-2"), *parts]), KIND)
    assert asked.pieces == Usage(images=1, terms=terms)


def test_text_among_an_image_s_output_is_told_apart() -> None:
    """And what was shown to it, from a cache or not; a stream's images are summed."""
    usage = {
        "input_tokens": 30,
        "input_tokens_details": {"image_tokens": 20, "cached_tokens": 5},
        "output_tokens": 100,
        "output_tokens_details": {"text_tokens": 40, "image_tokens": 60},
    }
    event = {"type": "image_edit.completed", "usage": usage}
    answer = OPENAI_IMAGES.read_answer(json.dumps(event).encode())
    assert answer is not None
    one = Usage(
        30, 5, output_total=100, images=1, modalities=Modalities(image_input=20, image_output=60)
    )
    two = Usage(
        60, 10, output_total=200, images=2, modalities=Modalities(image_input=40, image_output=120)
    )
    assert answer.usage_after(None) == one
    assert answer.usage_after(one) == two


def test_a_form_for_an_edit() -> None:
    """Model and number are fields; the image has no formula here."""
    fields = [
        FILE,
        part(b"gpt-image-1"),
        part(b"2", b'form-data; name="n"'),
        part(b"true", b'form-data; name="stream"'),
    ]
    assert OPENAI_IMAGES.read_form is not None
    asked = OPENAI_IMAGES.read_form(form(fields), KIND)
    assert (asked.model, asked.stream, asked.choices) == ("gpt-image-1", True, 2)
    assert (asked.media.payload_bytes, asked.media.is_unbounded) == (27, True)


@pytest.mark.parametrize("number", [b"-1", b"many", b"100000", b"99999", b""])
def test_an_odd_number_of_images_is_refused(number: bytes) -> None:
    """It would say nothing of what is billed."""
    assert OPENAI_IMAGES.read_form is not None
    with pytest.raises(BadCall):
        OPENAI_IMAGES.read_form(form([part(number, b'form-data; name="n"')]), KIND)


def test_a_recording() -> None:
    """Its length in seconds is guessed from its bytes."""
    recording = part(b"." * 40_000, b'form-data; name="file"; filename="a.mp3"')
    assert OPENAI_AUDIO.read_form is not None
    asked = OPENAI_AUDIO.read_form(form([recording, part(b"whisper-1")]), KIND)
    assert (asked.model, asked.stream) == ("whisper-1", False)
    assert asked.pieces == Usage(seconds=3)
    assert asked.is_uncountable
    assert OPENAI_AUDIO.read(b'{"model":"voxtral"}', b"").model == "voxtral"


def test_speech() -> None:
    """Billed by the characters of what is said, or as tokens."""
    asked = OPENAI_SPEECH.read(b'{"model":"tts-1","input":"H\xc3\xa9!","voice":"alloy"}', b"")
    assert (asked.stream, asked.output_limit, asked.pieces) == (False, 0, Usage(characters=3))
    asked = OPENAI_SPEECH.read(b'{"model":"gpt-4o-mini-tts","stream_format":"sse","input":7}', b"")
    assert (asked.stream, asked.output_limit, asked.pieces) == (True, None, Usage())
    assert OPENAI_SPEECH.countable_text(b"no JSON") == ("", 0)
