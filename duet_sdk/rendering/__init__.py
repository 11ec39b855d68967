"""Chat messages → the token ids that a model reads, with untrusted text kept from becoming control tokens."""

from duet_sdk.rendering.control import neutralise_unknown
from duet_sdk.rendering.renderer import Renderer, TokenizerFiles

__all__ = ["Renderer", "TokenizerFiles", "neutralise_unknown"]
