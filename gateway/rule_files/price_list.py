"""The litellm package's price list, read as data: it is only cut into its entries, and thinned out.

litellm is never imported here: that costs seconds and prices unknown models at $0.
"""

import re
from importlib.util import find_spec
from pathlib import Path

import msgspec

from gateway.core.price_list import PriceList
from gateway.findings import Finding, Findings

_PACKAGE = "litellm"
_LIST = "model_prices_and_context_window_backup.json"
_NOT_MODELS = ("sample_spec", "fallback_generalizations")
# Half of the list is of what models can do, and who says so. In JSON no string has such text.
_NO_PRICES = re.compile(rb',"(?:supports_\w+":(?:true|false|null)|source":"[^"\\]*")')
_decode_list = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def read_price_list() -> tuple[PriceList, list[Finding]]:
    """Return the package's prices, or none with a warning if they cannot be read."""
    spec = find_spec(_PACKAGE)
    places = list(spec.submodule_search_locations or ()) if spec else []
    path = Path(places[0], _LIST) if places else Path(_LIST)
    try:
        text = msgspec.json.format(path.read_bytes(), indent=-1)
        entries = _decode_list(_NO_PRICES.sub(b"", text))
    except (OSError, ValueError):
        findings = Findings(str(path))
        findings.warning(
            "", None, "cannot be read: no model has a price", "install the pinned litellm package"
        )
        return PriceList({}), findings.items
    for name in _NOT_MODELS:
        entries.pop(name, None)
    return PriceList(entries), []
