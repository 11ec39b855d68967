"""Consent to a settings file that was found, not named: a folder that was just cloned must not choose where data goes.

A found file may set limits, prices, prompts, policies and models on this machine's loopback addresses. What else it
sets needs consent: `trust` keeps the file's hash in the user's configuration folder, so that a changed file asks again.
It is a list of what is allowed; what a later version adds needs consent until it is put there.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
import shlex
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final, TypeAlias

from duet_sdk.backends.connect import split_name
from duet_sdk.environment import config_dir
from duet_sdk.errors import ConfigError

FILE_NAME: Final = "duet.toml"
_MOST_BYTES: Final = 1 << 20
"""Most that is read of a found file: far more than settings have, and nothing that fills a memory."""

_Allowed: TypeAlias = "str | Mapping[str, _Allowed]"
_VALUE: Final = "value"
"""A value of any kind: it reaches nothing outside the process."""
_MODEL: Final = "model"
"""A model, or a list of models: on loopback, or in this process without a download."""


def _values(names: str) -> dict[str, _Allowed]:
    return dict.fromkeys(names.split(), _VALUE)


_RETRY: Final = _values("attempts first_wait_s longest_wait_s longest_retry_after_s")
_SAMPLING: Final = _values("temperature top_p top_k min_p seed stop logprobs")
ALLOWED: Final[Mapping[str, _Allowed]] = {
    **_values("gate_deadline_s handoff on_cut context ledger_wait_s trace_dialects prices"),
    "reasoner": _MODEL,
    "generator": _MODEL,
    "budget": _values("signal_tokens answer_tokens total_tokens cost_usd deadline_s signal_deadline_s"),
    "gate": _values("policy threshold first_tokens"),
    "progressive": _values("slice_tokens threshold probe_tokens share most_probes"),
    "on_failure": {
        **_values("chain signal_broken answer_broken"),
        "retry": _RETRY,
        "breaker": _values("failures rest_s"),
        "ladder": _values("empty_signal reasoner generator"),
        "fallback_pair": _MODEL,
    },
    "signal_scope": _values("ask_again_on after_tool_turns most_calls"),
    "retry": _RETRY,
    "prompts": _values("reasoner generator"),
    "reasoner_params": _SAMPLING,
    "generator_params": _SAMPLING,
}
"""What a found file may set: the settings, and what their tables may hold. A word in a table's place is allowed."""
_OF_A_MODEL: Final = {
    **_values("model price context_tokens"),
    "options": _values("connect_s read_s priority capabilities"),
}
"""What the table of a model may hold besides its address, which is looked at."""
_LOOPBACK: Final = re.compile(
    r"https?://(localhost|[0-9.]{7,15}|\[::1\])(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~-]+)*/?", re.ASCII
)
"""An address that every reader of URLs reads alike: no user, no escapes, no names but one."""
_NAME: Final = re.compile(r"[\w+-][\w.:+-]*(/[\w+-][\w.:+-]*)*", re.ASCII)
"""A model's name that is no path out of the cache, and holds no address."""
_IN_PROCESS: Final = frozenset({"transformers/embedded"})
"""What is loaded without a download and from no path of the folder."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A settings file in the working folder, read once: what is parsed is what was hashed."""

    path: Path
    """Absolute, the folder's links resolved."""
    content: bytes = field(repr=False)  # it may hold keys

    @classmethod
    def in_folder(cls, folder: Path) -> FoundFile | None:
        """The file in a folder, None if there is none.

        Raises:
            ConfigError: it cannot be read, is not a plain file, or is too long.
        """
        path = folder / FILE_NAME
        try:
            path = Path(os.path.realpath(folder)) / FILE_NAME
            with open(path, "rb", opener=_without_waiting) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise ConfigError(f"the settings file {path} cannot be read: it is not a plain file")
                content = file.read(_MOST_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"the settings file {path} cannot be read: {type(error).__name__}") from error
        if len(content) > _MOST_BYTES:
            raise ConfigError(f"the settings file {path} cannot be read: it is longer than {_MOST_BYTES} bytes")
        return cls(path, content)

    @property
    def digest(self) -> str:
        """The SHA-256 of its content, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()

    def is_trusted(self) -> bool:
        """Whether the user has consented to this content in this place."""
        return trusted().get(str(self.path)) == self.digest

    def require_consent(self, values: Mapping[str, Any]) -> None:
        """Let pass what it sets, if that is allowed to a found file or the user has consented.

        Raises:
            ConfigError: it needs consent; names file, keys and command.
        """
        keys, folder = needing_consent(values), shlex.quote(str(self.path.parent))
        if keys and not self.is_trusted():
            raise ConfigError(
                f"the settings file {self.path} was found in the working folder and sets {_listed(keys)}, which needs "
                f"your consent. Read the file, then run `duet trust {folder}`; or name the file, with "
                "--config, DUET_CONFIG or load_settings(path)"
            )


def needing_consent(values: Mapping[str, Any]) -> list[str]:
    """The keys of a found file that need consent, as ``generator.base_url``; in the file's order.

    >>> needing_consent({"budget": {"signal_tokens": 64}, "generator": "vllm/m@http://far.example/v1"})
    ['generator']
    """
    return list(dict.fromkeys(_beyond(values, ALLOWED, "")))


def trust(found: FoundFile) -> None:
    """Remember the user's consent to this content in this place.

    Raises:
        ConfigError: the user's configuration folder cannot be written to.
    """
    _write({**trusted(), str(found.path): found.digest})


def forget(path: Path) -> bool:
    """Take the consent to a file back; False if there was none.

    Raises:
        ConfigError: as `trust`.
    """
    kept = trusted()
    known = kept.pop(str(path), None) is not None
    if known:
        _write(kept)
    return known


def trusted() -> dict[str, str]:
    """Files with the SHA-256 of the content that the user has consented to.

    A store that others could have written is not believed.
    """
    try:
        with _store().open("rb") as file:
            facts = os.fstat(file.fileno())
            if hasattr(os, "getuid") and (facts.st_uid != os.getuid() or facts.st_mode & 0o022):
                return {}
            kept = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return {}
    files = kept.get("files") if isinstance(kept, dict) else None
    return {str(path): str(digest) for path, digest in files.items()} if isinstance(files, dict) else {}


def _store() -> Path:
    return config_dir() / "trusted.json"


def _write(files: Mapping[str, str]) -> None:
    store = _store()
    try:
        store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A temporary file is readable and writable by its owner only (0600).
        with NamedTemporaryFile("w", dir=store.parent, delete=False, encoding="utf-8") as file:
            json.dump({"version": 1, "files": dict(sorted(files.items()))}, file, indent=1)
        Path(file.name).replace(store)
    except OSError as error:
        raise ConfigError(f"consent cannot be kept in {store}: {type(error).__name__}") from error


def _without_waiting(path: str, flags: int) -> int:
    # A named pipe in the folder must not make the program wait for a writer.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _beyond(values: Mapping[str, Any], allowed: Mapping[str, _Allowed], place: str) -> Iterator[str]:
    """The keys in a table that are not allowed."""
    for name, value in values.items():
        at, kind = f"{place}{name}", allowed.get(name)
        if isinstance(kind, Mapping):
            if isinstance(value, Mapping):
                yield from _beyond(value, kind, f"{at}.")
        elif kind == _MODEL:
            yield from _beyond_models(value, at)
        elif kind is None:
            yield at


def _beyond_models(value: object, place: str) -> Iterator[str]:
    match value:
        case str():
            if not _is_near(value, None):
                yield place
        case list():
            for number, one in enumerate(value):
                yield from _beyond_models(one, f"{place}.{number}")
        case Mapping():
            url, model = value.get("base_url"), value.get("model")
            rest = {name: inner for name, inner in value.items() if name != "base_url"}
            if not isinstance(model, str) or not _is_near(model, url):
                yield f"{place}.{'base_url' if 'base_url' in value else 'model'}"
            yield from _beyond(rest, _OF_A_MODEL, f"{place}.")
        case _:
            yield place


def _is_near(name: str, base_url: object) -> bool:
    """Whether a model is scripted, in this process without a download, or served on a loopback address.

    Not by LiteLLM, which may send elsewhere than the URL says, and takes keys from the environment by itself.
    """
    try:
        backend, model, url = split_name(name)
    except ConfigError:
        return False
    if backend == "scripted":
        return base_url is None
    if name in _IN_PROCESS:
        return base_url is None
    addresses = [one for one in (url, base_url) if one is not None]
    return backend == "vllm" and _NAME.fullmatch(model) is not None and all(map(_is_loopback, addresses))


def _is_loopback(url: object) -> bool:
    found = _LOOPBACK.fullmatch(url) if isinstance(url, str) else None
    if found is None:
        return False
    host = found[1]
    if host in ("localhost", "[::1]"):
        return True
    try:
        return ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False


def _listed(keys: list[str]) -> str:
    """Keys for an error: they are the file's own words, so not many and not long."""
    shown = [key if len(key) <= 60 else f"{key[:59]}…" for key in keys[:5]]
    return ", ".join(shown) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
