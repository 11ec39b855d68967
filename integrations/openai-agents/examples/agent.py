"""An agent with a tool, on scripted models: the reasoner plans once for the whole run."""

import asyncio

from agents import Agent, Runner, function_tool, set_tracing_disabled
from duet_openai_agents import DuetModel, facts_of

from duet_sdk import AsyncDuetClient, ToolCall
from duet_sdk.backends.scripted import Script, Scripted

WEATHER = Script(tool_calls=(ToolCall("1", "weather", '{"city": "Graz"}'),))


@function_tool
def weather(city: str) -> str:
    """What the weather is like."""
    return f"It is sunny in {city}."


async def main() -> None:
    """Ask, let the agent call its tool, and show who wrote what."""
    async with AsyncDuetClient(Scripted("Look the weather up, then answer."), Scripted(WEATHER, "Sunny.")) as pair:
        agent = Agent(name="umbrella", model=DuetModel(pair), instructions="Answer in one word.", tools=[weather])
        result = await Runner.run(agent, "Do I need an umbrella in Graz?")
    usage = result.context_wrapper.usage
    print(f"answer:  {result.final_output}")
    print(f"signal:  {facts_of(result.raw_responses[0])['signal']['tokens']} tokens, asked for once")
    print(f"written: {usage.output_tokens} tokens, {usage.output_tokens_details.reasoning_tokens} by the reasoner")


set_tracing_disabled(True)
asyncio.run(main())
