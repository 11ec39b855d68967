"""DUET pairs as models of LiteLLM: ``litellm.completion("duet/NAME", …)``, and in the LiteLLM proxy."""

from duet_litellm.provider import DuetProvider as DuetProvider
from duet_litellm.provider import register as register

from_settings = DuetProvider()
"""For the proxy's ``custom_handler``: ``duet/default`` is the pair of the settings (``duet.toml``, ``DUET_*``)."""
