"""What an endpoint adds to every call in vLLM's own names: thinking budget, priority, cache salt, rank."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from duet_sdk.backends.base import Call
from duet_sdk.backends.server.vllm_limits import RANK_HEADER
from duet_sdk.backends.server.wire import Dialect
from duet_sdk.errors import ConfigError
from duet_sdk.rendering import Renderer

_TENANT = "{tenant}"
_LONGEST_SALT = 512
"""Characters; vLLM refuses longer ones."""
_GRAMMARS = ("structured_outputs", "response_format")


@dataclass(frozen=True, slots=True)
class OwnFields:
    """The fields that are the endpoint's, not the call's.

    Raises:
        ConfigError: a salt that vLLM would refuse.
    """

    priority: int | None = None
    """Lower is earlier; None sends none."""
    cache_salt: str | None = None
    """Calls share prefix caches with those of the same salt only; None sends none. ``{tenant}`` in it stands for a
    hash of the request's tenant."""

    def __post_init__(self) -> None:
        if self.cache_salt is not None and not 0 < len(self.cache_salt) <= _LONGEST_SALT:
            raise ConfigError(f"cache_salt must have 1 to {_LONGEST_SALT} characters, got {len(self.cache_salt)}")

    def of(self, call: Call, secret: bytes | None = None) -> dict[str, object]:
        """The fields of one call.

        Args:
            call: the call.
            secret: keeps tenants apart where no salt was configured; None leaves the server's cache to all of them.
        """
        salt = self.cache_salt
        if salt is None and secret is not None and call.tenant is not None:
            salt = hmac.new(secret, call.tenant.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
        elif salt is not None and _TENANT in salt:
            # Hashed, so that no name travels and a long one fits.
            salt = salt.replace(_TENANT, hashlib.sha256((call.tenant or "").encode()).hexdigest())
        given: dict[str, object] = {}
        if self.priority is not None:
            given["priority"] = self.priority
        if salt is not None:
            given["cache_salt"] = salt
        return given


def rank_headers(call: Call, ranks: int) -> dict[str, str] | None:
    """Sends the calls of a session to one of a server's data-parallel engines; None where there is nothing to choose.

    Each engine has a prefix cache of its own, and vLLM's balancing looks at their load alone. The rank is the same in
    every process and for both stages, and it changes where the number of engines does. A tenant without sessions is not
    pinned: all of its load would be on one engine.

    Args:
        call: the call.
        ranks: how many engines there are.
    """
    if ranks < 2 or call.session is None:  # one engine leaves no choice
        return None
    named = hashlib.sha256(repr((call.tenant, call.session)).encode())
    return {RANK_HEADER: str(int.from_bytes(named.digest()[:8], "big") % ranks)}


def thinking_budget(
    call: Call, *, dialect: Dialect, renderer: Renderer | None, grammar_in_thinking: bool = False
) -> Mapping[str, object]:
    """The field ``thinking_token_budget`` of a call to a server that was started for it; empty where none is due.

    It bounds thinking to the call's own limit, and ends it at once where it is unwanted and the template has no switch
    for it. vLLM counts from the opening tag on, also what the prompt holds of the block. The one more keeps it from
    closing a block that ``max_tokens`` leaves open, which is what tells that a signal was cut. A grammar begins to hold
    where thinking ends, unless the server has it hold for thinking too: vLLM 0.32 then answers 500 to an end by force
    that the grammar does not know.

    Args:
        call: the call.
        dialect: what the server understands.
        renderer: the model's own template, None if it is not available.
        grammar_in_thinking: whether the server's grammars hold for thinking too.
    """
    extra = call.sampling.extra_body or {}
    has_grammar = call.response_format is not None or call.tools or any(name in extra for name in _GRAMMARS)
    if grammar_in_thinking and has_grammar:
        return {}
    if call.thinking:
        # Without the template, all of the prompt may be thinking: the server then holds the limit less tightly.
        known = renderer is not None and renderer.can_think
        opened = renderer.open_thought_tokens(call.prompt_ids) if renderer and known else len(call.prompt_ids)
        return {"thinking_token_budget": call.max_tokens + 1 + opened}
    if call.thinking is False and not dialect.switch_thinking:
        return {"thinking_token_budget": 0}
    return {}
