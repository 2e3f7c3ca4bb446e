"""Lay the sources of the settings over each other, and say which one is at fault.

The command line is over the environment (`TOLLGATE_<SECTION>__<KEY>`), that over the file, the
file over the defaults. Unknown keys and wrong types are errors: a misspelt limit that is ignored
would be a limit that is not there.
"""

import os
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource, SettingsError

from gateway.findings import Finding, Findings, Severity, as_error, explain, suggestion
from gateway.settings.routing import routing_conflicts
from gateway.settings.sections import (
    DEFAULT_UPSTREAMS,
    ENV_DELIMITER,
    ENV_PREFIX,
    GatewayFile,
    Settings,
)
from gateway.settings.values import UPSTREAM_NAME
from gateway.yaml_source import Key, MappingNode, is_missing, line_of, plain, read_mapping

DEFAULT_CONFIG_FILE = Path("config/gateway.yaml")
DISABLE_ENFORCEMENT_ENV = "DISABLE_BUDGET_ENFORCEMENT"

_ENVIRONMENT = "environment"
_COMMAND_LINE = "command line"
_OF_THE_COMMAND_LINE = "TOLLGATE_ADMIN_TOKEN"  # read by `tollgate tasks` and the like, as it stands

Values = dict[str, Any]


def load_settings(config_file: Path | None, overrides: Mapping[str, Any]) -> Settings:
    """Return the settings in force; `overrides` are nested like the file.

    Without `config_file` the default file is read if it exists. Raises InvalidConfigError with
    every fault that was found.
    """
    path = config_file or DEFAULT_CONFIG_FILE
    findings = Findings(str(path))
    root: MappingNode | None = MappingNode((), 1)
    if config_file is not None or not is_missing(path):
        root = read_mapping(path, findings)
    if root is None:
        raise as_error(findings.items)
    sources = _Sources(findings, root, dict(overrides))
    settings = sources.settings()
    if settings is None or findings.has_errors:
        raise as_error(findings.items)
    return settings


class _Sources:
    """The command line, the environment and the file, with the findings on all three."""

    def __init__(self, findings: Findings, root: MappingNode, overrides: Values) -> None:
        self._findings = findings
        self._root = root
        self._file = self._fold_upstreams(_without_empty_sections(plain(root)))
        self._environment = self._read_environment()
        self._overrides = overrides

    def settings(self) -> Settings | None:
        """Return the settings, or None with the reasons among the findings."""
        defaults: Values = {"upstreams": DEFAULT_UPSTREAMS}
        with_file = _in_the_file_s_order(_merged(defaults, self._file), self._file)
        try:
            # Strict for the file, where a number can be written as one; not for the environment.
            GatewayFile.model_validate(with_file, strict=True)
        except ValidationError as error:
            for fault in error.errors():
                # A value that the file leaves out may still come from the environment.
                if fault["type"] != "missing":
                    self._note(fault, self._findings.file)
        values = _merged(_merged(with_file, self._environment), self._overrides)
        values["enforcement_disabled"] = _enforcement_disabled()
        try:
            settings = Settings(**values)
        except ValidationError as error:
            for fault in error.errors():
                self._note(fault, self._origin_of(fault["loc"]))
            return None
        for key, problem, remedy in _conflicts(settings):
            self._findings.error(key, None, problem, remedy)
        return settings

    def _fold_upstreams(self, values: Values) -> Values:
        """Return the file's values with upstream names in lower case."""
        upstreams = values.get("upstreams")
        if not isinstance(upstreams, dict):
            return values
        folded: Values = {}
        for name, keys in upstreams.items():
            low = name.lower()
            line = line_of(self._root, ("upstreams", name))
            if not UPSTREAM_NAME.fullmatch(low):
                self._findings.error(
                    f"upstreams.{name}",
                    line,
                    "is not a usable name",
                    "use letters, digits, '.', '_' and '-', at most 64",
                )
            if low in folded:
                self._findings.error(
                    f"upstreams.{name}", line, "is given twice in different case", "remove one"
                )
            folded[low] = {} if keys is None else keys
        return {**values, "upstreams": folded}

    def _read_environment(self) -> Values:
        for name in _tollgate_variables():
            section, delimiter, _ = name.removeprefix(ENV_PREFIX).lower().partition(ENV_DELIMITER)
            if delimiter and section not in GatewayFile.model_fields:
                known = [f"{ENV_PREFIX}{field.upper()}" for field in GatewayFile.model_fields]
                self._in_environment(
                    name, "unknown section", suggestion(f"{ENV_PREFIX}{section.upper()}", known)
                )
        try:
            values = EnvSettingsSource(Settings)()
        except SettingsError as error:
            self._in_environment("", str(error), f"set single keys, {ENV_PREFIX}<SECTION>__<KEY>")
            return {}
        values.pop("enforcement_disabled", None)
        return values

    def _in_environment(self, name: str, problem: str, remedy: str) -> None:
        self._findings.items.append(
            Finding(Severity.ERROR, _ENVIRONMENT, name, None, problem, remedy)
        )

    def _note(self, error: ErrorDetails, origin: str) -> None:
        """Turn one of pydantic's errors into a finding on `origin`, each key once."""
        key: Key = error["loc"]
        problem, remedy = explain(error, _known_keys(key))
        name, line = ".".join(map(str, key)), None
        if origin == _ENVIRONMENT:
            name = ENV_PREFIX + ENV_DELIMITER.join(map(str, key)).upper()
        elif origin == self._findings.file:
            line = line_of(self._root, key)
        if (origin, name) not in {(known.file, known.key) for known in self._findings.items}:
            finding = Finding(Severity.ERROR, origin, name, line, problem, remedy)
            self._findings.items.append(finding)

    def _origin_of(self, key: Key) -> str:
        """Return the highest source that has `key`, or else the nearest of its ancestors."""
        file = self._findings.file
        sources = {
            _COMMAND_LINE: self._overrides,
            _ENVIRONMENT: self._environment,
            file: self._file,
        }
        depths = range(len(key), 0, -1)
        holders = (
            name
            for depth in depths
            for name, values in sources.items()
            if _holds(values, key[:depth])
        )
        return next(holders, file)


def _without_empty_sections(values: Values) -> Values:
    """Return the values, a section whose keys are all commented out counting as not written."""
    fields = GatewayFile.model_fields.items()
    sections = {name for name, field in fields if _model_in(field.annotation)}
    return {
        key: {} if value is None and key in sections else value for key, value in values.items()
    }


def _merged(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> Values:
    """Return `upper` laid over `lower`, mapping by mapping."""
    result = dict(lower)
    for key, value in upper.items():
        below = result.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[key] = _merged(below, value) if both else value  # type: ignore[arg-type]
    return result


def _in_the_file_s_order(values: Values, file: Values) -> Values:
    """Return the values, upstreams in the order of the file: of two patterns the first counts."""
    named = file.get("upstreams")
    if not isinstance(named, dict):
        return values
    upstreams = values["upstreams"]
    return {**values, "upstreams": {name: upstreams[name] for name in [*named, *upstreams]}}


def _holds(values: object, key: Key) -> bool:
    for part in key:
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


def _model_in(annotation: object) -> type[BaseModel] | None:
    """Return the model that a field is, or is a mapping of."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _known_keys(key: Key) -> list[str]:
    """Return the keys that may stand where `key` stands."""
    model: type[BaseModel] = GatewayFile
    for part in key[:-1]:
        field = model.model_fields.get(str(part))
        model = (_model_in(field.annotation) if field else None) or model
    return list(model.model_fields)


def _conflicts(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Yield (key, problem, remedy) for values that are right alone and wrong together."""
    store, server, admin = settings.store, settings.server, settings.admin
    if 2 * store.heartbeat_ms > store.lease_ms:
        yield (
            "store.heartbeat_ms",
            f"{store.heartbeat_ms} ms leaves no second try within a lease of {store.lease_ms} ms",
            "make it at most half of store.lease_ms",
        )
    if bool(server.tls_cert_file) != bool(server.tls_key_file):
        missing = "server.tls_key_file" if server.tls_cert_file else "server.tls_cert_file"
        yield (missing, "is missing", "TLS needs both files: set both, or none")
    if settings.limits.max_bytes_in_flight < settings.limits.max_body_bytes:
        yield (
            "limits.max_bytes_in_flight",
            "has no room for one body of limits.max_body_bytes",
            "make it at least as large; 268435456 is the default",
        )
    if _may_split_the_ledger(settings):
        yield (
            "ledger.writer",
            "is needed: redis.url is on another machine and the ledger is a SQLite file on this "
            "one. Gateways that share a Redis would each write a part of its ledger, and none "
            "would have the whole",
            "give all of them one PostgreSQL by ledger.url; or set ledger.writer: true on exactly "
            "one gateway and false on the others",
        )
    yield from routing_conflicts(settings.upstreams)
    for name, token in admin.tokens.items():
        is_name = UPSTREAM_NAME.fullmatch(name) is not None and name != "admin"
        if not is_name or bool(token.token_file) == bool(token.sha256):
            yield (
                f"admin.tokens.{name}",
                "is no token with a name",
                "name it in small letters, not admin, and give either token_file or sha256",
            )
    if server.port and (server.host, server.port) == (admin.host, admin.port):
        yield (
            "admin.port",
            f"{admin.port} is the data plane's port too",
            "give server.port and admin.port different values",
        )


def _may_split_the_ledger(settings: Settings) -> bool:
    """Return whether others may share the store and cannot share the ledger."""
    ledger = settings.ledger
    return (
        ledger.writer is None
        and not ledger.url.startswith("postgresql")
        and _is_remote(settings.redis.url)
    )


def _is_remote(redis_url: str) -> bool:
    if not redis_url.startswith(("redis://", "rediss://")):
        return False
    host = urlsplit(redis_url).hostname or ""
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def _enforcement_disabled() -> bool:
    word = os.environ.get(DISABLE_ENFORCEMENT_ENV, "")
    return word.strip().lower() in ("1", "true", "yes", "on")


def _tollgate_variables() -> list[str]:
    return sorted(name.upper() for name in os.environ if name.upper().startswith(ENV_PREFIX))


def environment_doubts() -> list[Finding]:
    """Return a warning for each variable that has one underscore where a key needs two.

    Only a warning: Kubernetes sets variables such as TOLLGATE_ADMIN_PORT for services of its own.
    An empty one counts as not set.
    """
    names = {name.replace(ENV_DELIMITER, "_"): name for name in environment_names()}
    return [
        Finding(
            Severity.WARNING,
            _ENVIRONMENT,
            name,
            None,
            "is not read",
            f"write {names[name]}, with two underscores",
        )
        for name in _tollgate_variables()
        if names.get(name, name) != name
        and name != _OF_THE_COMMAND_LINE
        and _is_meant(os.environ.get(name, ""))
    ]


def _is_meant(value: str) -> bool:
    return value != "" and "://" not in value


def environment_names() -> Iterator[str]:
    """Yield the variable of each key, upstreams' keys with the default upstreams' names."""
    for name, field in GatewayFile.model_fields.items():
        section = _model_in(field.annotation)
        if section is None:
            yield f"{ENV_PREFIX}{name}".upper()
            continue
        parents = [f"{name}__{up}" for up in DEFAULT_UPSTREAMS] if name == "upstreams" else [name]
        for parent in parents:
            for key in section.model_fields:
                yield f"{ENV_PREFIX}{parent}{ENV_DELIMITER}{key}".upper()
