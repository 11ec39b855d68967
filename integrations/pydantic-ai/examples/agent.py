"""An agent with a tool, on scripted models: the reasoner plans once for the whole run."""

import asyncio

from duet_pydantic_ai import DuetModel
from pydantic_ai import Agent
from pydantic_ai.messages import ThinkingPart

from duet_sdk import AsyncDuetClient, ToolCall
from duet_sdk.backends.scripted import Script, Scripted

WEATHER = Script(tool_calls=(ToolCall("1", "weather", '{"city": "Graz"}'),))


async def main() -> None:
    """Ask, let the agent call its tool, and show who wrote what."""
    async with AsyncDuetClient(Scripted("Look the weather up, then answer."), Scripted(WEATHER, "Sunny.")) as pair:
        agent = Agent(DuetModel(pair), instructions="Answer in one word.")

        @agent.tool_plain
        def weather(city: str) -> str:
            """What the weather is like."""
            return f"It is sunny in {city}."

        result = await agent.run("Do I need an umbrella in Graz?")
    thoughts = [
        part.content for message in result.all_messages() for part in message.parts if isinstance(part, ThinkingPart)
    ]
    print(f"signal:  {thoughts[0]}")
    print(f"answer:  {result.output}")
    print(f"written: {result.usage.output_tokens} tokens, {result.usage.details['reasoning_tokens']} by the reasoner")


asyncio.run(main())
