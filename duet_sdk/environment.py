"""The package's one reader of its own environment variables."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

PREFIX = "DUET_"
_SECRET: Final = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_ID)?$")
_LEAST_SECRET: Final = 8
"""Characters from which on a value is taken for a key: a shorter one is a name or a number."""


def variable(name: str) -> str | None:
    """The value of an environment variable, None if it is not set or empty."""
    return os.environ.get(name) or None


def own_variables() -> Sequence[str]:
    """The names of all variables that are set and begin with ``DUET_``."""
    return [name for name in os.environ if name.startswith(PREFIX)]


def secrets() -> tuple[str, ...]:
    """The values of all variables whose names say that they hold a key or a password: never to be shown."""
    return tuple(value for name, value in os.environ.items() if _SECRET.search(name) and len(value) >= _LEAST_SECRET)


def default_cache_dir() -> Path:
    """DUET's cache folder: ``DUET_CACHE_DIR``, else ``duet`` in ``XDG_CACHE_HOME``, else ``~/.cache/duet``."""
    if own := variable("DUET_CACHE_DIR"):
        return Path(own).expanduser()
    base = Path(variable("XDG_CACHE_HOME") or "")
    # The specification says to ignore a relative path there (XDG Base Directory Specification).
    return (base if base.is_absolute() else Path.home() / ".cache") / "duet"


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for a URL, None if it is to be reached without one.

    ``HTTP_PROXY`` and ``HTTPS_PROXY`` by the URL's scheme, else ``ALL_PROXY``, in lower case or capitals.
    ``NO_PROXY`` lists hosts, domains, addresses and networks that need none, each perhaps with a port; ``*`` is all.
    """
    from urllib.request import getproxies_environment  # a third of all that `import duet_sdk` costs, and seldom needed

    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = getproxies_environment()
    if any(_is_exempt(host, port, entry.strip()) for entry in found.get("no", "").split(",")):
        return None
    return found.get(parts.scheme) or found.get("all")


def _is_exempt(host: str, port: int, entry: str) -> bool:
    """Whether an entry of ``NO_PROXY`` names this host."""
    if not entry or entry == "*":
        return bool(entry)
    name, colon, number = entry.rpartition(":")
    if colon and number.isdecimal() and (":" not in name or name.endswith("]")):
        if int(number) != port:
            return False
        entry = name
    entry = entry.strip("[]").lower().removeprefix("*").removeprefix(".")
    try:
        return ip_address(host) in ip_network(entry, strict=False)
    except ValueError:  # one of the two is a name
        return host == entry or host.endswith(f".{entry}")


def config_dir() -> Path:
    """The user's configuration folder of DUET: ``duet`` in ``XDG_CONFIG_HOME``, else ``~/.config/duet``."""
    base = Path(variable("XDG_CONFIG_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".config") / "duet"
