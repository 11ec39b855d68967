"""smolagents: its model for OpenAI's protocol, and an agent that calls tools."""

from smolagents import OpenAIModel, ToolCallingAgent
from smolagents import tool as as_tool
from smolagents.models import ChatMessage, MessageRole
from told import ERRAND, KEY, QUESTION, SPENT_KEY, URL, look_up, seen, tell

ASKED = [ChatMessage(role=MessageRole.USER, content=[{"type": "text", "text": QUESTION}])]


def model(name="duet", key=KEY):
    return OpenAIModel(model_id=name, api_base=URL, api_key=key)


def plain():
    message = model().generate(ASKED)
    usage = message.token_usage
    reasoning = message.raw.choices[0].message.model_extra.get("reasoning_content")
    return seen(message.content, (usage.input_tokens, usage.output_tokens, None), reasoning=reasoning)


def streamed():
    deltas = list(model().generate_stream(ASKED))
    usage = next(delta.token_usage for delta in reversed(deltas) if delta.token_usage)
    pieces = [delta.content for delta in deltas if delta.content]
    return seen("".join(pieces), (usage.input_tokens, usage.output_tokens, None), pieces=len(pieces))


def tool():
    run = ToolCallingAgent(tools=[as_tool(look_up)], model=model(), verbosity_level=0).run(
        ERRAND, return_full_result=True
    )
    return seen(run.output, (run.token_usage.input_tokens, run.token_usage.output_tokens, None))


tell(
    chat={
        "plain": plain,
        "streamed": streamed,
        "tool": tool,
        "unknown_model": lambda: model("gpt-99").generate(ASKED),
        "spent": lambda: model(key=SPENT_KEY).generate(ASKED),
    }
)
