"""Prices: the litellm package's list as data, the operator's overrides over it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.core import price_list as core_price_list
from gateway.core.errors import InvalidConfigError
from gateway.core.piece_rates import PieceRates
from gateway.core.price_entry import price_from_entry
from gateway.core.prices import ModelPrice, PriceTable
from gateway.core.usage import Modalities, Usage
from gateway.rule_files import load_prices, price_list, read_prices

REPOSITORY = Path(__file__).parents[1]
SHIPPED = REPOSITORY / "config/prices.yaml"
LISTED: dict[str, Any] = {
    "sample_spec": {"input_cost_per_token": 1.0, "output_cost_per_token": 1.0},
    "fallback_generalizations": {"rules": []},
    "listed": {"input_cost_per_token": 2e-06, "output_cost_per_token": 8e-06, "mode": "chat"},
    "cached": {
        "input_cost_per_token": 2e-06,
        "output_cost_per_token": 8e-06,
        "cache_read_input_token_cost": 5e-07,
        "max_output_tokens": 4096,
    },
    "free": {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0},
    "note": "not an entry",
    "capable": {
        "supports_vision": True,
        "mode": "chat",
        "source": "https://a.example",
        "supports_x": None,
        "input_cost_per_token": 1e-06,
        "supports_tools": False,
        "output_cost_per_token": 1e-06,
    },
    "hd/1024-x-1792/by-size": {"output_cost_per_image": 0.12, "mode": "image_generation"},
}
Write = Callable[[str], Path]


@pytest.fixture
def small_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand a package with a short list in litellm's place."""
    package = tmp_path / "package"
    package.mkdir()
    file = package / "model_prices_and_context_window_backup.json"
    file.write_text(json.dumps(LISTED))
    spec = SimpleNamespace(submodule_search_locations=[str(package)])
    monkeypatch.setattr(price_list, "find_spec", lambda name: spec if name == "litellm" else None)
    return file


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(models: str) -> Path:
        file = tmp_path / "prices.yaml"
        file.write_text(f"models:\n{models}")
        return file

    return write_file


def faults(file: Path) -> list[str]:
    with pytest.raises(InvalidConfigError) as raised:
        load_prices(file)
    return [fault.replace(str(file), "FILE") for fault in raised.value.faults]


# the list


@pytest.mark.parametrize(
    ("model", "provider", "usage", "nano_usd"),
    [
        ("whisper-1", "openai", Usage(seconds=60), 6_000_000),
        ("tts-1", "openai", Usage(characters=1_000), 15_000_000),
        ("dall-e-3", "azure", Usage(images=1, terms="standard/1024x1024"), 44_000_032),
        ("dall-e-3", "azure", Usage(images=1, terms="hd/1024x1792"), 132_000_016),
        ("openai/gpt-image-2", "fal_ai", Usage(images=2, terms="low/1024x1024"), 12_000_000),
        (
            "gpt-image-1",
            "openai",
            Usage(20, output_total=272, images=1, modalities=Modalities(image_output=272)),
            20 * 5_000 + 272 * 40_000,
        ),
        (
            "gpt-realtime",
            "openai",
            Usage(100, output_total=50, modalities=Modalities(audio_input=80, audio_output=40)),
            20 * 4_000 + 80 * 32_000 + 10 * 16_000 + 40 * 64_000,
        ),
    ],
)
def test_pieces_cost_what_the_list_says(
    model: str, provider: str, usage: Usage, nano_usd: int
) -> None:
    price = load_prices(SHIPPED).find(model, provider)
    assert price is not None
    assert price.cost_nano_usd(usage) == nano_usd


def test_a_model_that_nobody_knows_has_no_price() -> None:
    """GW-5."""
    assert load_prices(SHIPPED).find("gpt-7", "openai") is None


def test_the_pinned_package_s_list_is_read() -> None:
    """D10."""
    table = load_prices(SHIPPED)
    assert table.overrides == {}
    limits = 16_384, 128_000
    dearer = ModelPrice(4_250_000_000, 17 * 10**9, 2_125_000_000, 4_250_000_000, *limits)
    assert table.find("gpt-4o", "openai") == ModelPrice(
        2_500_000_000,
        10**10,
        1_250_000_000,
        2_500_000_000,
        *limits,
        services=(("priority", dearer),),
    )
    assert table.find("claude-sonnet-4-5", "anthropic") is not None
    assert table.find("gemini-2.5-pro", "gemini") is not None
    assert len(table.models) > 2_000


def test_reading_the_list_does_not_import_litellm() -> None:
    """D10: importing it costs 4 s and 180 MB."""
    code = (
        "import sys; from pathlib import Path; from gateway.rule_files import load_prices;"
        "assert load_prices(Path('none.yaml')).models; print('litellm' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_only_models_with_a_price_are_in_the_table(small_list: Path, tmp_path: Path) -> None:
    """GW-5: neither the sample nor an entry without a price is a model that costs nothing."""
    table, findings = read_prices(tmp_path / "none.yaml")
    assert findings == []
    assert table is not None
    by_size = {"by-size", "hd/1024-x-1792/by-size"}
    assert set(table.models) == {"listed", "cached", "capable", *by_size}


def test_an_entry_is_understood_when_it_is_first_asked_for(
    small_list: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And once: understanding all of some thousand entries at start takes a third of a second."""
    understood: list[object] = []

    def understand(entry: dict[str, Any], sizes: dict[str, Any]) -> ModelPrice | None:
        understood.append(entry)
        return price_from_entry(entry, sizes)

    monkeypatch.setattr(core_price_list, "price_from_entry", understand)
    table = load_prices(tmp_path / "none.yaml")
    assert understood == []
    for name in ("listed", "free", "unheard of") * 2:
        table.find(name, "openai")
    assert understood == [LISTED["listed"], LISTED["free"]]
    assert len(table.models) == 5


def test_an_entry_of_a_shape_that_none_has_is_no_price(small_list: Path, tmp_path: Path) -> None:
    """And no call fails for it."""
    odd = {"tiered_pricing": [{"range": ["a"]}, {"range": [1]}]}
    small_list.write_text(json.dumps({**LISTED, "odd": odd}))
    table = load_prices(tmp_path / "none.yaml")
    assert table.find("odd") is None
    assert table.find("listed") is not None


@pytest.mark.parametrize("text", ["", "{broken", "[]", None])
def test_a_list_that_cannot_be_read_leaves_all_unpriced_with_a_warning(
    text: str | None, small_list: Path, tmp_path: Path
) -> None:
    if text is None:
        small_list.unlink()
    else:
        small_list.write_text(text)
    table, [finding] = read_prices(tmp_path / "none.yaml")
    assert table == PriceTable()
    assert finding.severity.value == "warning"
    assert "no model has a price" in str(finding)


@pytest.mark.parametrize("spec", [None, SimpleNamespace(submodule_search_locations=None)])
def test_without_the_package_all_is_unpriced(
    spec: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(price_list, "find_spec", lambda name: spec)
    monkeypatch.chdir(tmp_path)
    table, [finding] = read_prices(tmp_path / "none.yaml")
    assert table == PriceTable()
    assert "install the pinned litellm package" in str(finding)


# overrides


@pytest.mark.usefixtures("small_list")
def test_a_listed_model_may_state_single_keys(write: Write) -> None:
    table = load_prices(write("  cached: {output_usd_per_million: 4, max_input_tokens: 9}\n"))
    assert table.find("cached") == ModelPrice(2 * 10**9, 4 * 10**9, 5 * 10**8, 2 * 10**9, 4096, 9)
    assert table.models["cached"] is table.overrides["cached"]
    assert table.find("listed") is not None


@pytest.mark.usefixtures("small_list")
def test_a_cache_rate_that_nobody_stated_follows_the_input_rate(write: Write) -> None:
    """GW-4: the list's own cache rate stays; one that only repeated the input rate does not."""
    table = load_prices(write("  cached: {input_usd_per_million: 6}\n"))
    assert table.find("cached") == ModelPrice(6 * 10**9, 8 * 10**9, 5 * 10**8, 6 * 10**9, 4096)


@pytest.mark.usefixtures("small_list")
def test_a_new_model_states_input_and_output(write: Write) -> None:
    table = load_prices(
        write(
            "  mine:\n    input_usd_per_million: 0.0375\n    output_usd_per_million: 1.5\n"
            "    cached_read_usd_per_million: 0.01\n    cache_write_usd_per_million: 0.05\n"
            "    max_output_tokens: 100\n    max_input_tokens: 200\n"
        )
    )
    assert table.find("mine") == ModelPrice(37_500_000, 15 * 10**8, 10**7, 5 * 10**7, 100, 200)


PIECES = """\
    usd_per_second: 0.0001
    usd_per_image: 0.05
    characters_usd_per_million: 15
    audio_input_usd_per_million: 32
    audio_cached_read_usd_per_million: 0.4
    audio_output_usd_per_million: 64
    image_input_usd_per_million: 5
    image_cached_read_usd_per_million: 0.5
    image_output_usd_per_million: 30
    usd_per_image_by_size:
      standard/1024x1024: 0.04
      hd/1024x1792: 0.12
"""
STATED = PieceRates(
    second=10**11,
    character=15 * 10**9,
    image=5 * 10**13,
    sizes=(("standard/1024x1024", 4 * 10**13), ("hd/1024x1792", 12 * 10**13)),
    audio_input=32 * 10**9,
    audio_cached=4 * 10**8,
    audio_output=64 * 10**9,
    image_input=5 * 10**9,
    image_cached=5 * 10**8,
    image_output=30 * 10**9,
)


@pytest.mark.usefixtures("small_list")
def test_pieces_have_prices_too(write: Write) -> None:
    """A model that is priced by the piece needs no price of tokens."""
    table = load_prices(write(f"  mine:\n{PIECES}  listed:\n{PIECES}"))
    assert table.find("mine") == ModelPrice(0, 0, 0, 0, pieces=STATED)
    listed = ModelPrice(2 * 10**9, 8 * 10**9, 2 * 10**9, 2 * 10**9, pieces=STATED)
    assert table.find("listed") == listed


@pytest.mark.usefixtures("small_list")
def test_without_a_price_of_any_image_it_is_the_dearest_size_s(write: Write) -> None:
    table = load_prices(
        write("  m: {usd_per_image_by_size: {low/512x512: 0.01, hd/1024x1024: 0.08}}\n")
    )
    price = table.find("m")
    assert price is not None
    assert price.pieces is not None
    assert price.pieces.image == 8 * 10**13


@pytest.mark.usefixtures("small_list")
def test_a_stated_price_of_any_image_holds_for_every_size(write: Write) -> None:
    table = load_prices(write("  by-size: {usd_per_image: 0.02}\n"))
    price = table.find("by-size")
    assert price == ModelPrice(0, 0, 0, 0, pieces=PieceRates(image=2 * 10**13))


@pytest.mark.usefixtures("small_list")
def test_a_stated_rate_of_audio_leaves_the_list_s_sizes(write: Write) -> None:
    table = load_prices(write("  by-size: {audio_input_usd_per_million: 3}\n"))
    price = table.find("by-size")
    assert price is not None
    assert price.pieces is not None
    assert price.pieces.sizes == (("hd/1024x1792", 12 * 10**13),)
    assert price.pieces.audio_input == 3 * 10**9


@pytest.mark.usefixtures("small_list")
def test_a_price_of_0_is_the_operator_s_statement(write: Write) -> None:
    table = load_prices(write("  local: {input_usd_per_million: 0, output_usd_per_million: 0}\n"))
    assert table.find("local") == ModelPrice(0, 0, 0, 0)


@pytest.mark.usefixtures("small_list")
@pytest.mark.parametrize("text", ["", "models: {}\n", "# nothing\n"])
def test_a_file_without_models_changes_nothing(text: str, tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    assert load_prices(file) == load_prices(tmp_path / "none.yaml")


@pytest.mark.usefixtures("small_list")
@pytest.mark.parametrize(
    ("models", "fault"),
    [
        (
            "  listd: {input_usd_per_million: 1}\n",
            "FILE:2: models.listd: is not in the price list and lacks output_usd_per_million. "
            "Remedy: state both, or the price of an image, a second or characters, or use a "
            "listed name (listed).",
        ),
        ("  zzz: {}\n", "lacks input_usd_per_million and output_usd_per_million"),
        ("  listed: {input: 1}\n", "FILE:2: models.listed.input: unknown key"),
        ("  listed: 1\n", "FILE:2: models.listed: must be a mapping of keys"),
        ("  listed: {input_usd_per_million: -1}\n", "must be at least 0 and at most 1,000,000"),
        ("  listed: {input_usd_per_million: '1'}\n", "must be a number, not text"),
        ("  listed: {input_usd_per_million: .nan}\n", "must be at least 0"),
        ("  listed: {max_output_tokens: 0}\n", "must be above 0"),
        ("  listed: {max_output_tokens: 1.5}\n", "must be a whole number"),
        (
            "  listed: {usd_per_image_by_size: 1}\n",
            "models.listed.usd_per_image_by_size: must be a mapping of quality and size to US "
            "dollars. Remedy: write it like {hd/1024x1792: 0.12}.",
        ),
        (
            "  listed: {usd_per_image_by_size: {large: 1}}\n",
            "models.listed.usd_per_image_by_size.large: is not a quality and a size. Remedy: "
            "write it like standard/1024x1024 or high/1024x1536.",
        ),
        (
            "  listed: {usd_per_image_by_size: {hd/1024x1024: x}}\n",
            "models.listed.usd_per_image_by_size.hd/1024x1024: must be a number",
        ),
        ("  listed: {usd_per_second: 1001}\n", "must be at least 0 and at most 1,000"),
        (
            "  zzz: {audio_input_usd_per_million: 1}\n",
            "lacks input_usd_per_million and output_usd_per_million. Remedy: state both, or the "
            "price of an image, a second or characters, or use a listed name",
        ),
        ("  listed: {}\n  listed: {}\n", "FILE:3: models.listed: is given twice"),
    ],
)
def test_a_wrong_override_is_refused(models: str, fault: str, write: Write) -> None:
    [found] = faults(write(models))
    assert fault in found


@pytest.mark.usefixtures("small_list")
def test_a_new_model_with_a_wrong_rate_has_one_fault(write: Write) -> None:
    [found] = faults(write("  m: {input_usd_per_million: x, output_usd_per_million: 1}\n"))
    assert "models.m.input_usd_per_million" in found


@pytest.mark.usefixtures("small_list")
@pytest.mark.parametrize("text", ["models: []\n", "models: x\n", "prices: {}\n", "models: ["])
def test_a_file_of_another_shape_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    assert len(faults(file)) == 1
    assert read_prices(file)[0] is None
