"""Pictures and sound through real sockets: what is billed by the piece, and the real SDK."""

import openai
import pytest

from loadtest.fake_provider import FakeProvider
from loadtest.provider_media import BYTES_PER_SECOND
from tests.e2e.running_gateway import Gateway

pytestmark = pytest.mark.asyncio(loop_scope="session")

SAY = "Say something about budgets."
SECONDS = 4
SOUND = b"\xff" * BYTES_PER_SECOND * SECONDS


def client_of(gateway: Gateway, task: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{gateway.url}/v1",
        api_key="sk-test",
        default_headers={"x-task-id": task},
        max_retries=0,
    )


def tokens_of(provider: FakeProvider) -> int:
    truth = provider.totals()
    return truth.prompt_tokens + truth.completion_tokens


def numbers(fields: dict[str, str], *names: str) -> tuple[int, ...]:
    return tuple(int(fields.get(name) or 0) for name in names)


async def test_images(enforcing: Gateway, provider: FakeProvider, task: str) -> None:
    """Whole and streamed, the SDK reads what the provider says, and that is charged."""
    async with client_of(enforcing, task) as client:
        whole = await client.images.generate(model="gpt-image-1", prompt=SAY)
        assert whole.usage is not None
        assert whole.usage.total_tokens == tokens_of(provider)
        events = await client.images.generate(model="gpt-image-1", prompt=SAY, stream=True)
        last = [event async for event in events][-1]
    assert last.type == "image_generation.completed"
    fields = await enforcing.settled(task, 2)
    names = ("tokens.S", "tokens.H", "estimated.calls")
    assert numbers(fields, *names) == (tokens_of(provider), 0, 0)
    truth = provider.totals()
    nano_usd = truth.prompt_tokens * 5_000 + truth.completion_tokens * 40_000
    assert numbers(fields, "nano_usd.S", "nano_usd.H") == (nano_usd, 0)


async def test_a_picture_without_tokens(
    enforcing: Gateway, provider: FakeProvider, task: str
) -> None:
    """DALL-E reports nothing: what was asked for is charged, and marked."""
    async with client_of(enforcing, task) as client:
        await client.images.generate(model="dall-e-3", prompt=SAY)
    fields = await enforcing.settled(task, 1)
    assert numbers(fields, "tokens.H", "calls.S", "estimated.calls") == (0, 1, 1)
    assert provider.totals().calls == 1


async def test_a_recording_that_is_billed_by_tokens(
    enforcing: Gateway, provider: FakeProvider, task: str
) -> None:
    """The SDK's form is read, and its answer charged; subtitles report nothing."""
    async with client_of(enforcing, task) as client:
        said = await client.audio.transcriptions.create(
            model="gpt-4o-transcribe", file=("a.mp3", SOUND)
        )
        assert said.usage is not None
        assert said.usage.type == "tokens"
        fields = await enforcing.settled(task, 1)
        names = ("tokens.S", "tokens.H", "estimated.calls")
        assert numbers(fields, *names) == (tokens_of(provider), 0, 0)
        shown = await client.audio.transcriptions.create(
            model="gpt-4o-transcribe", file=("a.mp3", SOUND), response_format="srt"
        )
    assert "-->" in str(shown)
    fields = await enforcing.settled(task, 2)
    assert numbers(fields, "tokens.H", "estimated.calls") == (0, 1)
    assert int(fields["tokens.S"]) >= tokens_of(provider)


async def test_a_recording_that_is_billed_by_seconds(
    enforcing: Gateway, provider: FakeProvider, task: str
) -> None:
    """It is a call without tokens."""
    async with client_of(enforcing, task) as client:
        await client.audio.transcriptions.create(model="whisper-1", file=("a.mp3", SOUND))
    assert provider.totals().seconds == SECONDS
    fields = await enforcing.settled(task, 1)
    names = ("tokens.S", "tokens.H", "calls.S", "estimated.calls")
    assert numbers(fields, *names) == (0, 0, 1, 0)
    assert numbers(fields, "nano_usd.S", "nano_usd.H") == (SECONDS * 100_000, 0)


async def test_speech(enforcing: Gateway, provider: FakeProvider, task: str) -> None:
    """Sound passes as it is; its characters are charged, and marked as an estimate."""
    async with client_of(enforcing, task) as client:
        sound = await client.audio.speech.create(model="tts-1", voice="alloy", input=SAY)
    assert sound.content.startswith(b"ID3")
    fields = await enforcing.settled(task, 1)
    names = ("tokens.H", "calls.S", "estimated.calls")
    assert numbers(fields, *names) == (0, 1, 1)
    assert numbers(fields, "nano_usd.S", "nano_usd.H") == (len(SAY) * 15_000, 0)
    assert provider.totals().calls == 1
