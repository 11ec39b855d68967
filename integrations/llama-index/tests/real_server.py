"""An LLM on a real server, for tests/frameworks: ``python real_server.py MODEL``, the model in both roles."""

import asyncio
import sys

from llama_index.core.llms import ChatMessage
from llama_index.llms.duet import DuetLLM

from duet_sdk import AsyncDuetClient, Sampling

ASKED = [ChatMessage("What is the capital of France?")]


async def main(model: str) -> None:
    async with AsyncDuetClient(model, model, reasoner_params=Sampling(temperature=0)) as client:
        llm = DuetLLM(client, num_output=96, call_options={"budget": {"signal_tokens": 8}, "temperature": 0.0})
        whole = await llm.achat(ASKED)
        assert whole.message.content
        assert whole.raw["duet"]["signal"]["tokens"] <= 8
        responses = [response async for response in await llm.astream_chat(ASKED)]
        assert responses[-1].message == whole.message
        assert responses[-1].raw["usage"] == whole.raw["usage"]
        assert (await asyncio.to_thread(llm.chat, ASKED)).message == whole.message


asyncio.run(main(sys.argv[1]))
