"""An agent with a tool, on scripted models: the reasoner plans once for the whole run."""

import asyncio

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.llms.duet import DuetLLM

from duet_sdk import AsyncDuetClient, ToolCall
from duet_sdk.backends.scripted import Script, Scripted

WEATHER = Script(tool_calls=(ToolCall("1", "weather", '{"city": "Graz"}'),))


def weather(city: str) -> str:
    """What the weather is like."""
    return f"It is sunny in {city}."


async def main() -> None:
    """Ask, let the agent call its tool, and show who wrote what."""
    async with AsyncDuetClient(Scripted("Look the weather up, then answer."), Scripted(WEATHER, "Sunny.")) as pair:
        agent = FunctionAgent(llm=DuetLLM(pair), tools=[weather], system_prompt="Answer in one word.")
        result = await agent.run("Do I need an umbrella in Graz?")
    print(f"answer:  {result.response.content}")
    print(f"served:  {result.raw['duet']['served_by']}, {result.raw['duet']['gate']['reason']}")
    print(f"written: {result.raw['usage']['completion_tokens']} tokens in the last turn")


asyncio.run(main())
