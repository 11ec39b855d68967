"""Chat messages → the token ids that a model reads, with untrusted text kept from becoming control tokens."""

from duet_sdk.rendering.control import neutralise_unknown
from duet_sdk.rendering.files import TokenizerFiles
from duet_sdk.rendering.renderer import Renderer

__all__ = ["Renderer", "TokenizerFiles", "neutralise_unknown"]
