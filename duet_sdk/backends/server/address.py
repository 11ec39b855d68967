"""Where a server is, how far away that is, and what every request to it carries."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Final, Protocol
from urllib.parse import urlsplit

from duet_sdk.backends.keys import in_header
from duet_sdk.errors import ConfigError

DEFAULT_URL: Final = "http://127.0.0.1:8000/v1"


class Secret(Protocol):
    """A text that does not show itself, such as pydantic's ``SecretStr``."""

    def get_secret_value(self) -> str:
        """The text."""


_PLAIN_HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "duet-sdk"}


def request_headers(api_key: Secret | str | None, own: Mapping[str, str]) -> dict[str, str]:
    """The headers of every request.

    Raises:
        ConfigError: a key or a header that HTTP cannot carry; its value is not shown.
    """
    key = api_key if isinstance(api_key, str | None) else api_key.get_secret_value()
    sent = {**_PLAIN_HEADERS, **own}
    if key and key.strip():
        sent["Authorization"] = f"Bearer {key.strip()}"
    for name, value in sent.items():
        given: tuple[object, ...] = (name, value)  # from a file: of any type
        if not all(isinstance(text, str) and text.isprintable() for text in given):
            what = "api_key" if name == "Authorization" and key else f"header {name!r}"
            raise ConfigError(f"{what} must be a text without line breaks; its value is not shown")
    return sent


def secrets_in(headers: Mapping[str, str]) -> tuple[str, ...]:
    """What must not be shown of headers: every value that is not ours."""
    own = (value for name, value in headers.items() if name not in _PLAIN_HEADERS)
    return tuple(secret for value in own for secret in in_header(value))


def checked_url(url: str) -> tuple[str, str]:
    """The URL without a slash at its end, and its host.

    Raises:
        ConfigError: it cannot be used, or holds a user, a password or a query, which would be shown.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigError(f"base_url must be an http or https URL such as {DEFAULT_URL!r}") from None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ConfigError("base_url must not hold a user, a password, a query or a fragment; give the key as api_key")
    try:
        port_works = parts.port != 0
    except ValueError:
        port_works = False
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_works:
        raise ConfigError(f"base_url must be an http or https URL such as {DEFAULT_URL!r}, got {url!r}")
    if parts.path.rstrip("/").endswith("/chat/completions"):
        raise ConfigError(f"base_url is where the API begins, got {url!r}: end it before /chat/completions, as in …/v1")
    return url.rstrip("/"), parts.hostname


def is_private(host: str) -> bool:
    """Whether a host is this machine or an address that only a private network has; names are not resolved."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return False
