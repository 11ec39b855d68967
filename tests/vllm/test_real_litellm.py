"""LiteLLM in front of a real server, as its provider ``hosted_vllm``."""

import pytest

from duet_sdk import AsyncDuetClient, Budget

pytest.importorskip("litellm", reason="needs the extra litellm")
pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]


async def test_a_pair_through_litellm_answers_within_its_limits(plain):
    model = f"litellm/hosted_vllm/plain@{plain.root}/v1"
    before = plain.generated()
    async with AsyncDuetClient(model, model) as duet:
        budget = Budget(signal_tokens=8, answer_tokens=8)
        reply = await duet.chat("What is the capital of France?", temperature=0, budget=budget)
    assert reply.text
    assert reply.signal.tokens == reply.usage.reasoner.output_tokens <= 8
    billed = reply.usage.reasoner.output_tokens + reply.usage.generator.output_tokens
    assert billed == plain.generated() - before
