"""A pair on disk: a folder with ``pair.json``, which names both models and says how they work together.

The models are named, or bundled as sub-folders. Everything in the folder is checked before it is used: nothing that
the manifest does not list lies in a model's folder, every listed file has its size and SHA-256, the weights are
safetensors, and no path or link leaves the folder. That detects damage and leftovers, not forgery:
whoever can write the manifest can write its checksums, and chooses the servers that questions go to.
"""

from duet_sdk.pair.manifest import Manifest
from duet_sdk.pair.merge import merge_adapters
from duet_sdk.pair.pair import Pair
from duet_sdk.pair.trained import TrainedModel, TrainingFacts, limit_for, save_trained
from duet_sdk.pair.upload import push

__all__ = [
    "Manifest",
    "Pair",
    "TrainedModel",
    "TrainingFacts",
    "limit_for",
    "merge_adapters",
    "push",
    "save_trained",
]
