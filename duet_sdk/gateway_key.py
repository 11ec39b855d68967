"""Keys of a gateway in ``duet.toml``, and what the holder of a key may have."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, get_args

from duet_sdk._checks import one_of, tells_fields, whole
from duet_sdk.errors import ConfigError
from duet_sdk.policies import STRICT

ServedMode: TypeAlias = Literal["duet", "generator", "reasoner"]
"""What a model's name can select of a pair."""
Priority: TypeAlias = Literal["high", "normal", "low"]
"""Who goes first where requests wait; none waits for ever."""
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_VARIABLE: Final = re.compile(r"[A-Z_][A-Z0-9_]*")
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


@tells_fields
@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """What the holder of a key may have.

    >>> Rights(models=("duet",), requests_per_minute=60).priority
    'normal'
    """

    models: tuple[str, ...] = ()
    """Names that it may ask for, ``*`` standing for any text; all when empty."""
    modes: tuple[ServedMode, ...] = ()
    """What the names that it may ask for may stand for; anything when empty."""
    boundaries: tuple[str, ...] = ()
    """How far its requests may go, as a request's ``boundary``; where the pair's first models are when empty."""
    priority: Priority = "normal"
    """Its class where requests wait."""
    requests_per_minute: int | None = None
    """Most requests that begin within any 60 s; no limit when not set."""
    tokens_per_minute: int | None = None
    """Tokens of both stages, prompts and outputs, that it gets in a minute; no limit when not set. What a request
    takes above them is owed, and waited for."""
    session_requests_per_minute: int | None = None
    """Most requests of one session within any 60 s; the gateway's own number when not set."""
    sees_signal: bool = False
    """Whether answers show it the signal, where ``signal_field`` says so; off, as a signal can say more than its
    answer."""

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: a number below 1, or an unknown word.
        """
        for mode in self.modes:
            one_of("modes of a key", mode, get_args(ServedMode))
        one_of("priority of a key", self.priority, get_args(Priority))
        if not all(one.strip() for one in (*self.models, *self.boundaries)):
            raise ConfigError("models and boundaries of a key must be lists of names, and one is empty")
        for name in ("requests_per_minute", "tokens_per_minute", "session_requests_per_minute"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name))


@tells_fields
@dataclass(frozen=True, slots=True)
class GatewayKey(Rights):
    """A key that clients may present, by its digest or by the variable that holds it; never by itself.

    >>> GatewayKey("team-a", key_env="TEAM_A_KEY").tenant
    'team-a'
    """

    tenant: str
    """Who pays in the ledger: the scope ``tenant:…``. Tenants share no cached signal."""
    sha256: str | None = field(default=None, repr=False)
    """SHA-256 of the key, in hexadecimal."""
    key_env: str | None = None
    """The environment variable that holds the key, in place of ``sha256``."""
    name: str | None = None
    """Its name, by which the ledger charges it too: the scope ``caller:…``; without one only the tenant is charged."""

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        """Check that there is one way to know the key.

        Raises:
            ConfigError: none or two, or something that is no digest, no variable's name, or no name.
        """
        Rights.__post_init__(self)
        if not self.tenant.strip():
            raise ConfigError("a gateway's key needs a tenant, such as 'team-a'")
        if (self.sha256 is None) == (self.key_env is None):
            raise ConfigError(f"the gateway's key of tenant {self.tenant!r} needs sha256 or key_env, one of them")
        # Neither is quoted: either may be the key itself, in the wrong place.
        if self.sha256 is not None and _DIGEST.fullmatch(self.sha256) is None:
            raise ConfigError(
                f"sha256 of the key of tenant {self.tenant!r} must be 64 hexadecimal digits in lower case, as "
                '`printf %s "$KEY" | sha256sum` prints them'
            )
        if self.key_env is not None and _VARIABLE.fullmatch(self.key_env) is None:
            raise ConfigError(
                f"key_env of the key of tenant {self.tenant!r} must be the name of an environment variable, in capitals"
            )
        if self.name is not None and _NAME.fullmatch(self.name) is None:
            raise ConfigError(
                f"name of the key of tenant {self.tenant!r} must be 1 to 64 characters of A-Z a-z 0-9 . _ -"
            )
