"""What a start needs and may fail for: addresses to bind, certificates, the admin token."""

import ipaddress
import secrets

from gateway.banner import AdminToken
from gateway.control import TlsFiles
from gateway.core.errors import TollgateError
from gateway.server.tls import server_tls
from gateway.settings import Settings

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


def admin_token(settings: Settings) -> AdminToken:
    """Return the admin token; without a setting one is generated into `state/admin-token`, once."""
    if settings.admin.token:
        return AdminToken(settings.admin.token)
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = settings.state_dir / "admin-token"
    is_new = not file.exists()
    if is_new:
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(_TOKEN_BYTES) + "\n")
    return AdminToken(file.read_text().strip(), file, is_new)
