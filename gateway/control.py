"""What the supervisor and its children tell each other over socket pairs: framed JSON messages."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import msgspec
from msgspec import structs

from gateway.core.configuration import DataPlane, Rules
from gateway.core.price_list import PriceList
from gateway.core.prices import PriceTable
from gateway.core.webhook import WebhookPolicy

_LENGTH_BYTES = 4


class TlsFiles(msgspec.Struct, frozen=True):
    """PEM files for clients that connect over TLS."""

    cert: str
    key: str


class Start(msgspec.Struct, tag=True):
    """To a worker, first of all: what to run on. `price_list` is filled in where it is sent."""

    plane: DataPlane
    rules: Rules
    tls: TlsFiles | None = None
    price_list: Mapping[str, msgspec.Raw] = {}


class UseRules(msgspec.Struct, tag=True):
    """To a worker: use these rules from the next call on."""

    rules: Rules
    price_list: Mapping[str, msgspec.Raw] = {}


class UsesRules(msgspec.Struct, tag=True):
    """From a worker: the rules of the oldest `UseRules` not answered yet are in use."""


class Ready(msgspec.Struct, tag=True):
    """From a worker: it accepts calls. From the translator: it serves."""

    pid: int


class Telemetry(msgspec.Struct, tag=True):
    """From a worker, every second: what it counted since the last time, and how it stands.

    `store_up`: the store answers it, as far as it has asked. `priced`: (provider, model) that calls
    have named since the last time and that have a price.
    """

    counted: list[tuple[str, tuple[str, ...], int]]
    open_calls: int
    store_up: bool
    priced: list[tuple[str, str]] = []


class TelemetryPlan(msgspec.Struct, frozen=True):
    """What the writer tells of phases and tasks, how often, and where to; '' is nowhere.

    Every `statistics_s` it looks at the figures of the last days; 0 never.
    """

    tells: bool = True
    otlp_endpoint: str = ""
    otlp_headers: dict[str, str] = {}
    interval_s: float = 10.0
    include_task_id: bool = False
    phase_idle_close_ms: int = 60_000
    statistics_s: float = 0.0
    monthly_nano_usd: int | None = None


NO_EXPORT = TelemetryPlan()


class LedgerPlan(msgspec.Struct, tag=True):
    """To the ledger's writer, first of all: what to write where."""

    store_url: str
    ledger_url: str
    tenants: tuple[str, ...]
    refusal_status: int
    rebuilds: bool
    retention_days: int
    size_alert_bytes: int
    tombstone_ms: int
    log_format: str
    log_level: str
    roadmap_file: str = ""
    evidence_dir: str = "state/evidence"
    reports: bool = False
    webhooks: tuple[WebhookPolicy, ...] = ()
    telemetry: TelemetryPlan = NO_EXPORT


class UseWebhooks(msgspec.Struct, tag=True):
    """To the writer: post what happens from now on to these."""

    webhooks: tuple[WebhookPolicy, ...]


class LedgerTelemetry(msgspec.Struct, tag=True):
    """From the writer, every second: what it counted since the last time, and how it stands.

    `alarming` are the figures of statistics that have a value: whether they are beyond a threshold.
    """

    counted: list[tuple[str, tuple[str, ...], int]]
    writing: bool
    size_bytes: int
    alarming: dict[str, bool] = {}


class FarSide(msgspec.Struct, frozen=True):
    """A translated upstream: litellm's name of its provider, its base URL, how long it may take."""

    provider: str
    base_url: str
    timeout_s: float


class TranslatorPlan(msgspec.Struct, tag=True):
    """To the translator, first of all: where to serve, and the upstreams by name.

    It answers `Ready` when it serves.
    """

    socket_path: str
    far_sides: dict[str, FarSide]
    max_body_bytes: int
    max_head_bytes: int
    log_format: str
    log_level: str


Message = (
    Start
    | UseRules
    | UsesRules
    | Ready
    | Telemetry
    | LedgerPlan
    | UseWebhooks
    | LedgerTelemetry
    | TranslatorPlan
)

_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def frame(message: Message) -> bytes:
    """Return a message with its length in front."""
    if isinstance(message, Start | UseRules):
        message = _with_list_apart(message)
    body = msgspec.json.encode(message)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


def _with_list_apart(message: Start | UseRules) -> Start | UseRules:
    """Return rules with the price list as the JSON that it is: nothing of it is understood here."""
    prices = message.rules.prices
    if not isinstance(prices.models, PriceList):
        return message
    rules = replace(message.rules, prices=PriceTable({}, prices.overrides))
    return structs.replace(message, rules=rules, price_list=prices.models.entries)


async def receive(reader: asyncio.StreamReader) -> Message:
    """Return the next message. Raises IncompleteReadError when the other side is gone."""
    length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
    message = _decoder.decode(await reader.readexactly(length))
    if isinstance(message, Start | UseRules) and message.price_list:
        overrides = message.rules.prices.overrides
        prices = PriceTable(PriceList(message.price_list, overrides), overrides)
        message.rules = replace(message.rules, prices=prices)
        message.price_list = {}
    return message
