"""The litellm package's price list, read as data: it is only cut into its entries.

litellm is never imported here: that costs seconds and prices unknown models at $0.
"""

from importlib.util import find_spec
from pathlib import Path

import msgspec

from gateway.core.price_list import PriceList
from gateway.findings import Finding, Findings

_PACKAGE = "litellm"
_LIST = "model_prices_and_context_window_backup.json"
_NOT_MODELS = ("sample_spec", "fallback_generalizations")
_decode_list = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def read_price_list() -> tuple[PriceList, list[Finding]]:
    """Return the package's prices, or none with a warning if they cannot be read."""
    spec = find_spec(_PACKAGE)
    places = list(spec.submodule_search_locations or ()) if spec else []
    path = Path(places[0], _LIST) if places else Path(_LIST)
    try:
        entries = _decode_list(path.read_bytes())
    except (OSError, ValueError):
        findings = Findings(str(path))
        findings.warning(
            "", None, "cannot be read: no model has a price", "install the pinned litellm package"
        )
        return PriceList({}), findings.items
    for name in _NOT_MODELS:
        entries.pop(name, None)
    return PriceList(entries), []
