"""Prices: the litellm package's list as data, the operator's overrides over it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.core.errors import InvalidConfigError
from gateway.core.prices import ModelPrice, PriceTable, price_from_entry
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
    assert set(table.models) == {"listed", "cached"}


def test_an_entry_is_understood_when_it_is_first_asked_for(
    small_list: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And once: understanding all of some thousand entries at start takes a third of a second."""
    understood: list[object] = []

    def understand(entry: dict[str, Any]) -> ModelPrice | None:
        understood.append(entry)
        return price_from_entry(entry)

    monkeypatch.setattr(price_list, "price_from_entry", understand)
    table = load_prices(tmp_path / "none.yaml")
    assert understood == []
    for name in ("listed", "free", "unheard of") * 2:
        table.find(name, "openai")
    assert understood == [LISTED["listed"], LISTED["free"]]
    assert len(table.models) == 2


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
            "Remedy: state both, or use a listed name (listed).",
        ),
        ("  zzz: {}\n", "lacks input_usd_per_million and output_usd_per_million"),
        ("  listed: {input: 1}\n", "FILE:2: models.listed.input: unknown key"),
        ("  listed: 1\n", "FILE:2: models.listed: must be a mapping of keys"),
        ("  listed: {input_usd_per_million: -1}\n", "must be at least 0 and at most 1,000,000"),
        ("  listed: {input_usd_per_million: '1'}\n", "must be a number, not text"),
        ("  listed: {input_usd_per_million: .nan}\n", "must be at least 0"),
        ("  listed: {max_output_tokens: 0}\n", "must be above 0"),
        ("  listed: {max_output_tokens: 1.5}\n", "must be a whole number"),
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
