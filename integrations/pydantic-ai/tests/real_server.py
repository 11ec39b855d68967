"""An agent on a real server, for tests/frameworks: ``python real_server.py MODEL``, the model in both roles."""

import asyncio
import sys

from duet_pydantic_ai import DuetModel, DuetModelSettings
from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput, ToolOutput

from duet_sdk import AsyncDuetClient, Budget, Sampling

SETTINGS: DuetModelSettings = {"duet_budget": Budget(signal_tokens=8, answer_tokens=96), "temperature": 0.0}


class City(BaseModel):
    """A city."""

    name: str = Field(max_length=16)  # a small model would not come to an end


async def main(model: str) -> None:
    async with AsyncDuetClient(model, model, reasoner_params=Sampling(temperature=0)) as client:
        agent = Agent(DuetModel(client), model_settings=SETTINGS)
        whole = await agent.run("What is the capital of France?")
        assert whole.output
        assert whole.usage.details["reasoning_tokens"] <= 8
        async with agent.run_stream("What is the capital of France?") as stream:
            pieces = [piece async for piece in stream.stream_text(delta=True, debounce_by=None)]
        assert "".join(pieces) == whole.output
        assert stream.usage.output_tokens == whole.usage.output_tokens
        for output in (NativeOutput(City), ToolOutput(City, strict=True)):
            found = await agent.run("Name one city.", output_type=output)
            assert isinstance(found.output, City)


asyncio.run(main(sys.argv[1]))
