"""Google ADK's agent through its LiteLLM model."""

from google.adk.agents import Agent
from google.adk.agents.run_config import RunConfig, StreamingMode
from google.adk.models.lite_llm import LiteLlm
from google.adk.runners import InMemoryRunner
from google.genai.types import Content, Part
from told import ERRAND, KEY, QUESTION, SPENT_KEY, URL, look_up, seen, tell


async def ask(question, model="duet", key=KEY, tools=(), streaming=StreamingMode.NONE):
    agent = Agent(name="a", model=LiteLlm(model=f"openai/{model}", api_base=URL, api_key=key), tools=list(tools))
    runner = InMemoryRunner(agent, app_name="clients")
    session = await runner.session_service.create_session(app_name="clients", user_id="u")
    said = runner.run_async(
        user_id="u",
        session_id=session.id,
        new_message=Content(role="user", parts=[Part(text=question)]),
        run_config=RunConfig(streaming_mode=streaming),
    )
    events = [event async for event in said]
    pieces = sum(bool(event.partial and text_of(event)) for event in events)
    usage = events[-1].usage_metadata
    counts = (usage.prompt_token_count, usage.candidates_token_count, usage.thoughts_token_count) if usage else ()
    return seen(text_of(events[-1]), counts, reasoning=text_of(events[-1], thought=True), pieces=pieces or None)


def text_of(event, *, thought=False):
    parts = (event.content and event.content.parts) or ()
    return "".join(part.text or "" for part in parts if bool(part.thought) is thought)


tell(
    chat={
        "plain": lambda: ask(QUESTION),
        "streamed": lambda: ask(QUESTION, streaming=StreamingMode.SSE),
        "tool": lambda: ask(ERRAND, tools=[look_up]),
        "unknown_model": lambda: ask(QUESTION, "gpt-99"),
        "spent": lambda: ask(QUESTION, key=SPENT_KEY),
    }
)
