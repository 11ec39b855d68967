"""Whether vLLM, which comes with no extra of training, is here for the policies that sample with it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from duet_sdk.errors import ConfigError

if TYPE_CHECKING:
    from duet_sdk.trainer.config import TrainConfig

_INSTALL = "`pip install 'vllm>=0.22,<0.32'`"
"""The versions that the pinned TRL takes (docs/reference/training.md)."""


def missing_engine(config: TrainConfig) -> str | None:
    """What to install where a policy samples with vLLM and it is not here; None where nothing is missing."""
    asked = [f"{stage}.vllm" for stage in ("reasoner", "generator") if getattr(config, stage).vllm is not None]
    if not asked or find_spec("vllm") is not None:
        return None
    return (
        f"vLLM is not installed here, and {' and '.join(asked)} need{'s' * (len(asked) == 1)} it: {_INSTALL}, or leave "
        f"{'it' if len(asked) == 1 else 'both'} out, and transformers samples"
    )


def check_engine(config: TrainConfig) -> None:
    """Refuse a run whose engine is missing, before anything is loaded.

    Raises:
        ConfigError: a policy samples with vLLM, which is not installed.
    """
    if (missing := missing_engine(config)) is not None:
        raise ConfigError(missing)
