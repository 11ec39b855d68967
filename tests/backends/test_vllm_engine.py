"""The engine in process where vLLM is not installed; tests/vllm_engine has the rest, with vLLM."""

import importlib.util

import pytest

from duet_sdk.backends.connect import available, connect
from duet_sdk.errors import MissingExtra

found = importlib.util.find_spec("vllm")
pytestmark = pytest.mark.skipif(found is not None and found.origin is not None, reason="vLLM is installed here")


def test_it_is_known_and_names_the_extra_to_install():
    assert "vllm-engine" in available()
    with pytest.raises(MissingExtra, match=r"\[vllm-engine\]"):
        connect("vllm-engine/some/model")
