"""A running fake provider and an SDK client of it."""

from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI

from loadtest.fake_provider import FakeProvider


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as running:
        yield running


@pytest.fixture
async def sdk(provider: FakeProvider) -> AsyncIterator[AsyncOpenAI]:
    url = f"{provider.base_url}/v1"
    async with AsyncOpenAI(base_url=url, api_key="sk-test", max_retries=0) as client:
        yield client
