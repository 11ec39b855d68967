"""Chat messages → the token ids that a model reads, with untrusted text kept from becoming control tokens."""

from duet_sdk.rendering.control import neutralise_unknown
from duet_sdk.rendering.files import TokenizerFiles
from duet_sdk.rendering.probe import ThinkBlock
from duet_sdk.rendering.renderer import Renderer
from duet_sdk.rendering.signal_template import SIGNAL_ARGUMENT, signal_template

__all__ = ["SIGNAL_ARGUMENT", "Renderer", "ThinkBlock", "TokenizerFiles", "neutralise_unknown", "signal_template"]
