"""The OpenAI Agents SDK over chat completions and Responses."""

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from agents.items import ReasoningItem
from openai import AsyncOpenAI
from openai.types.shared import Reasoning
from told import ERRAND, KEY, QUESTION, SPENT_KEY, URL, look_up, seen, tell

set_tracing_disabled(True)


def scenarios(kind, settings):
    def agent(model="duet", key=KEY, **more):
        asked = kind(model, openai_client=AsyncOpenAI(base_url=URL, api_key=key))
        return Agent(name="a", model=asked, model_settings=settings, **more)

    def told_by(run, pieces=None):
        usage = run.context_wrapper.usage
        items = [item.raw_item for item in run.new_items if isinstance(item, ReasoningItem)]
        shown = "".join(part.text for item in items for part in item.summary)
        counts = usage.input_tokens, usage.output_tokens, usage.output_tokens_details.reasoning_tokens
        return seen(run.final_output, counts, reasoning=shown, pieces=pieces)

    async def streamed():
        run = Runner.run_streamed(agent(), QUESTION)
        pieces = 0
        async for event in run.stream_events():
            pieces += event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
        return told_by(run, pieces)

    return {
        "plain": lambda: told_by(Runner.run_sync(agent(), QUESTION)),
        "streamed": streamed,
        "tool": lambda: told_by(Runner.run_sync(agent(tools=[function_tool(look_up)]), ERRAND)),
        "unknown_model": lambda: Runner.run_sync(agent("gpt-99"), QUESTION),
        "spent": lambda: Runner.run_sync(agent(key=SPENT_KEY), QUESTION),
    }


tell(
    chat=scenarios(OpenAIChatCompletionsModel, ModelSettings(include_usage=True)),
    responses=scenarios(OpenAIResponsesModel, ModelSettings(reasoning=Reasoning(summary="auto"))),
)
