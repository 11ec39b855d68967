"""By which way a server is reached: through which proxy, and with which certificates."""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import unquote, urlsplit, urlunsplit

from duet_sdk.environment import proxy_for
from duet_sdk.errors import ConfigError

_PROXY_SCHEMES: Final = ("http", "https")


@dataclass(frozen=True, slots=True)
class Route:
    """How requests of one endpoint go out."""

    proxy: str | None = None
    """The proxy's URL, without user and password; None goes straight to the server."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What the proxy wants with each request; empty where it opens a tunnel."""
    tunnel_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What the proxy wants to open a tunnel; none of it reaches the server."""
    tls: ssl.SSLContext | None = None
    """None for the authorities that this machine knows, and no certificate of one's own."""

    secrets: tuple[str, ...] = field(default=(), repr=False)
    """What must not be shown."""


def route_to(
    url: str,
    *,
    proxy: str | None = None,
    trust_env: bool = False,
    ca_file: str | None = None,
    cert_file: str | None = None,
    key_file: str | None = None,
) -> Route:
    """The way to the server at ``url``.

    Args:
        url: where its API begins.
        proxy: URL of the proxy, without user and password.
        trust_env: whether the environment says which proxy, where ``proxy`` does not.
        ca_file: PEM file, or a folder, with authorities that are trusted in addition to those that this machine knows.
        cert_file: PEM file with the client's certificate and what leads to its authority.
        key_file: PEM file with its private key, not encrypted; None if it stands in ``cert_file``.

    Raises:
        ConfigError: a proxy that cannot work, or a file that cannot be read.
    """
    headers: dict[str, str] = {}
    secrets: tuple[str, ...] = ()
    if proxy is not None:
        if "@" in proxy:
            raise ConfigError(
                "option 'proxy' must not hold a user or a password, because options are shown; put them into "
                "HTTPS_PROXY or HTTP_PROXY, and set trust_env=True"
            )
        proxy = _checked_proxy(proxy, "option 'proxy'")
    elif trust_env and (found := proxy_for(url)):
        proxy, headers, secrets = _split_user(_checked_proxy(found, "the proxy in the environment"))
    tls = _tls(ca_file, cert_file, key_file)
    if url.startswith("https:"):
        return Route(proxy, tunnel_headers=headers, tls=tls, secrets=secrets)
    return Route(proxy, headers, tls=tls, secrets=secrets)


def _checked_proxy(proxy: str, whose: str) -> str:
    if "://" not in proxy:
        proxy = f"http://{proxy}"  # as the environment's variables are often written
    try:
        parts = urlsplit(proxy)
        works = parts.scheme in _PROXY_SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        works = False
    if not works:
        raise ConfigError(f"{whose} must be a URL such as http://127.0.0.1:3128; SOCKS is not supported")
    return proxy


def _split_user(proxy: str) -> tuple[str, dict[str, str], tuple[str, ...]]:
    """The URL without user and password, the header that holds them, and what must not be shown."""
    parts = urlsplit(proxy)
    if parts.username is None:
        return proxy, {}, ()
    password = unquote(parts.password or "")
    encoded = b64encode(f"{unquote(parts.username)}:{password}".encode()).decode()
    place = parts.netloc.rpartition("@")[2]
    shown = urlunsplit((parts.scheme, place, parts.path, "", ""))
    return shown, {"Proxy-Authorization": f"Basic {encoded}"}, tuple(filter(None, (encoded, password)))


def _tls(ca_file: str | None, cert_file: str | None, key_file: str | None) -> ssl.SSLContext | None:
    if key_file is not None and cert_file is None:
        raise ConfigError("option 'key_file' is the key of a certificate: name that one as cert_file")
    if ca_file is None and cert_file is None:
        return None
    context = ssl.create_default_context()
    if ca_file is not None:
        path = Path(ca_file).expanduser()
        try:
            context.load_verify_locations(**{"capath" if path.is_dir() else "cafile": str(path)})
        except (OSError, ssl.SSLError) as error:
            _refuse("ca_file", path, "certificates of authorities in PEM form", error)
    if cert_file is not None:
        path, key = Path(cert_file).expanduser(), Path(key_file or cert_file).expanduser()
        try:
            # A password that is asked for would be read from the terminal; the empty one fails.
            context.load_cert_chain(path, key, password="")
        except (OSError, ssl.SSLError, ValueError) as error:
            _refuse("cert_file", path, "a certificate in PEM form with its key, not encrypted", error)
    return context


def _refuse(option: str, path: Path, what: str, error: Exception) -> NoReturn:
    why = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else type(error).__name__
    raise ConfigError(f"option {option!r}: {path} cannot be used ({why}); it must hold {what}") from None
