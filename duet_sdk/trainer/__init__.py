"""Joint training of a pair: shorter signals at held accuracy."""

from duet_sdk.trainer.config import TrainConfig

__all__ = ["TrainConfig"]
