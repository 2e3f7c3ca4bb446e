"""Who bills on after a cancellation is read on; nobody else is."""

import pytest

from gateway.core.disconnect import Disconnect, disconnect_of


@pytest.mark.parametrize("provider", ["gemini", "vertex_ai", "bedrock", "groq", "Mistral"])
def test_who_bills_on_is_read_on(provider: str) -> None:
    assert disconnect_of(provider) is Disconnect.DRAIN


@pytest.mark.parametrize("provider", ["openai", "azure", "anthropic", "deepseek", "xai", "", "odd"])
def test_who_stops_is_stopped(provider: str) -> None:
    """So is one that nobody knows: most stop."""
    assert disconnect_of(provider) is Disconnect.CANCEL
