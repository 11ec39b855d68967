"""An agent on a real server, for tests/frameworks: ``python real_server.py MODEL``, the model in both roles."""

import asyncio
import sys

from agents import Agent, ModelSettings, Runner, StopAtTools, function_tool, set_tracing_disabled
from duet_openai_agents import DuetModel, facts_of
from pydantic import BaseModel, Field

from duet_sdk import AsyncDuetClient, Sampling

LIMITS = {"budget": {"signal_tokens": 8, "answer_tokens": 96}}


class City(BaseModel):
    """A city."""

    name: str = Field(max_length=16)  # a small model would not come to an end


@function_tool
def note(text: str) -> str:
    """Keep a text."""
    return text


async def main(model: str) -> None:
    set_tracing_disabled(True)
    async with AsyncDuetClient(model, model, reasoner_params=Sampling(temperature=0)) as client:
        settings = ModelSettings(temperature=0.0, extra_args=LIMITS)
        agent = Agent(name="a", model=DuetModel(client), model_settings=settings)
        whole = await Runner.run(agent, "What is the capital of France?")
        assert whole.final_output
        assert facts_of(whole.raw_responses[0])["signal"]["tokens"] <= 8
        stream = Runner.run_streamed(agent, "What is the capital of France?")
        async for _ in stream.stream_events():
            pass
        assert stream.final_output == whole.final_output
        assert stream.context_wrapper.usage == whole.context_wrapper.usage
        typed = await Runner.run(agent.clone(output_type=City), "Name one city.")
        assert isinstance(typed.final_output, City)
        forced = ModelSettings(temperature=0.0, extra_args=LIMITS, tool_choice="required")
        stop = StopAtTools(stop_at_tool_names=["note"])
        tooled = agent.clone(tools=[note], tool_use_behavior=stop, model_settings=forced)
        assert (await Runner.run(tooled, "Note the word blue.")).new_items[-1].type == "tool_call_output_item"


asyncio.run(main(sys.argv[1]))
