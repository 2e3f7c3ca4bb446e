"""What a start needs and may fail for: addresses to bind, certificates, admin tokens."""

import ipaddress
import secrets
from tempfile import TemporaryFile

from pydantic_core import PydanticCustomError

from gateway.admin.roles import AdminAccess, Role, token_digest
from gateway.banner import AdminToken
from gateway.control import TlsFiles
from gateway.core.errors import TollgateError
from gateway.server.tls import server_tls
from gateway.settings import Settings
from gateway.settings.admin_tokens import digest_weakness, weakness
from gateway.settings.api_keys import read_key_file

_TOKEN_BYTES = 32


def check_bind(settings: Settings) -> None:
    """Raise TollgateError for listening beyond loopback without gateway keys, unless told so."""
    if settings.server.unsafe_bind or settings.keys.required:
        return
    for section, host in (("server", settings.server.host), ("admin", settings.admin.host)):
        if host == "localhost" or ipaddress.ip_address(host).is_loopback:
            continue
        raise TollgateError(
            f"{section}.host {host} is not a loopback address, and no gateway keys are needed: "
            "anybody who reaches it could spend. Remedy: bind 127.0.0.1, or set keys.required: "
            "true, or server.unsafe_bind: true if something else guards the port."
        )


def tls_files(settings: Settings) -> TlsFiles | None:
    """Return the data plane's certificate and key, None for none. Raises TollgateError."""
    server = settings.server
    if not server.tls_cert_file:
        return None
    files = TlsFiles(server.tls_cert_file, server.tls_key_file)
    server_tls(files)
    return files


def make_state_folder(settings: Settings) -> None:
    """Make the folder of all that the gateway writes, for nobody else to read.

    Raises TollgateError if nothing can be written there.
    """
    folder = settings.state_dir
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise TollgateError(
            f"state_dir: {folder} cannot be written ({error.strerror}). Remedy: name a folder that "
            "belongs to the gateway's user, such as by TOLLGATE_STATE_DIR."
        ) from None


def admin_token(settings: Settings) -> AdminToken:
    """Return the admin token; without a setting one is generated into `state/admin-token`, once."""
    if settings.admin.token:
        _check_strength("admin.token", settings.admin.token)
        return AdminToken(settings.admin.token)
    file = settings.state_dir / "admin-token"
    is_new = not file.exists()
    if is_new:
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(_TOKEN_BYTES) + "\n")
    token = file.read_text().strip()
    _check_strength(str(file), token)
    return AdminToken(token, file, is_new)


def admin_accesses(settings: Settings) -> tuple[AdminAccess, ...]:
    """Return the tokens of `admin.tokens`. Raises TollgateError for one that is weak or no file."""
    found = []
    for name, section in settings.admin.tokens.items():
        key, digest = f"admin.tokens.{name}", section.sha256
        if section.token_file:
            try:
                token = read_key_file(section.token_file)
            except PydanticCustomError as error:
                remedy = (error.context or {})["remedy"]
                raise TollgateError(
                    f"{key}.token_file: {error.message()}. Remedy: {remedy}."
                ) from None
            _check_strength(f"{key}.token_file", token)
            digest = token_digest(token.encode())
        elif problem := digest_weakness(digest):
            raise _too_weak(f"{key}.sha256", problem)
        found.append(AdminAccess(name, Role(section.role), digest))
    return tuple(found)


def _check_strength(where: str, token: str) -> None:
    if problem := weakness(token):
        raise _too_weak(where, problem)


def _too_weak(where: str, problem: str) -> TollgateError:
    return TollgateError(
        f"{where}: the admin token {problem}: who guesses it lifts all limits. Remedy: leave "
        "admin.token out (one is made then, kept in state_dir), or take a random one, such as "
        "of `openssl rand -hex 32`."
    )
