"""LiteLLM on a real server, for tests/frameworks: ``python real_server.py MODEL``, the model in both roles."""

import asyncio
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from duet_litellm import DuetProvider, register
from pydantic import BaseModel, Field

from duet_sdk import AsyncDuetClient, Sampling

ASKED = [{"role": "user", "content": "What is the capital of France?"}]
LIMITS = {"max_tokens": 32, "temperature": 0.0, "duet": {"budget": {"signal_tokens": 8}}}


class City(BaseModel):
    """A city."""

    name: str = Field(max_length=16)  # a small model would not come to an end


async def main(model: str) -> None:
    async with AsyncDuetClient(model, model, reasoner_params=Sampling(temperature=0)) as client:
        register(DuetProvider({"real": client}))
        whole = await litellm.acompletion("duet/real", ASKED, **LIMITS)
        text = whole.choices[0].message.content
        assert text
        assert whole.usage.completion_tokens_details.reasoning_tokens <= 8
        stream = await litellm.acompletion("duet/real", ASKED, stream=True, **LIMITS)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == text
        found = await litellm.acompletion("duet/real", ASKED, response_format=City, **LIMITS)
        City.model_validate_json(found.choices[0].message.content)


asyncio.run(main(sys.argv[1]))
