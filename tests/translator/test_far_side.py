"""Where a translated call goes, and with what credential."""

import pytest
from multidict import CIMultiDict

from gateway.control import FarSide
from gateway.translator.far_side import addressed, credential, takes_credential


@pytest.mark.parametrize(
    ("provider", "model", "base"),
    [
        ("anthropic", "anthropic/m", "http://far"),
        ("gemini", "gemini/m", "http://far/v1beta"),
        ("openai", "openai/m", "http://far/v1"),
        ("bedrock", "bedrock/converse/m", "http://far"),
    ],
)
@pytest.mark.parametrize("is_prefixed", [False, True])
def test_the_address(provider: str, model: str, base: str, is_prefixed: bool) -> None:
    """A model's name may carry its provider; it is tried once."""
    far = FarSide(provider, "http://far", 7.5)
    said = addressed(far, f"{provider}/m" if is_prefixed else "m", "k")
    key = said.pop("api_key", None)
    assert key == ("k" if takes_credential(far) else None)
    assert said == {
        "model": model,
        "api_base": base,
        "timeout": 7.5,
        "num_retries": 0,
        "max_retries": 0,
    }


def test_a_base_url_that_has_the_version_already() -> None:
    assert addressed(FarSide("openai", "http://far/v1", 1), "m", "k")["api_base"] == "http://far/v1"


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"Authorization": "Bearer k1"}, "k1"),
        ({"authorization": "bearer  k1 ", "x-api-key": "k2"}, "k1"),
        ({"X-Api-Key": "k2"}, "k2"),
        ({"x-goog-api-key": "k3", "authorization": "Basic x"}, "k3"),
        ({"api-key": "k4"}, "k4"),
        ({}, ""),
    ],
)
def test_the_credential(headers: dict[str, str], key: str) -> None:
    assert credential(CIMultiDict(headers)) == key


def test_bedrock_has_credentials_of_its_own() -> None:
    assert not takes_credential(FarSide("bedrock", "http://far", 1))
    assert takes_credential(FarSide("gemini", "http://far", 1))
