"""An agent on a real vLLM: eight tool turns whose calls the server's grammar writes, then an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

from langchain.agents import create_agent
from langchain.agents.middleware import ModelRequest, ModelResponse, wrap_model_call
from langchain_core.messages import AIMessage, ToolMessage
from langchain_duet import ChatDuet
from pydantic import BaseModel

from duet_sdk import Budget, RunScope, Sampling

TURNS = 8


def look_up(city: Literal["Paris", "Lyon"]) -> str:
    """Look up how many people live in a city."""
    return f"{city} has 7 people"


def add(a: Literal[1, 2], b: Literal[3, 4]) -> int:
    """Add two numbers."""
    return a + b


@wrap_model_call
async def in_turn(request: ModelRequest, handler: Callable[[ModelRequest], Awaitable[ModelResponse]]) -> ModelResponse:
    """A model this small calls no tool on its own: each is demanded in turn, and after eight turns none."""
    done = sum(isinstance(message, ToolMessage) for message in request.messages)
    choice = "none" if done >= TURNS else ("look_up", "add")[done % 2]
    return await handler(request.override(tool_choice=choice))


def pair(plain: str) -> ChatDuet:
    budget = Budget(signal_tokens=6, answer_tokens=48)
    greedy = Sampling(temperature=0)
    return ChatDuet(reasoner=plain, generator=plain, budget=budget, temperature=0, reasoner_params=greedy)


async def test_an_agent_runs_to_an_end(plain: str) -> None:
    agent = create_agent(pair(plain), [look_up, add], middleware=[in_turn])
    state = await agent.ainvoke({"messages": "How many people live there in all?"})
    results = [message for message in state["messages"] if isinstance(message, ToolMessage)]
    assert [(result.name, result.status) for result in results] == [("look_up", "success"), ("add", "success")] * 4
    last = state["messages"][-1]
    assert isinstance(last, AIMessage)
    assert not last.tool_calls  # it has come to its end, whatever so small a model says then
    # Each repeated call has it plan anew, and so small a model repeats itself.
    assert 1 <= last.response_metadata["run"]["reasoner_calls"] <= RunScope().most_calls


class Capital(BaseModel):
    """A capital."""

    city: Literal["Paris", "London"]
    of: Literal["France"]


def test_the_grammar_holds_an_answer_to_its_schema(plain: str) -> None:
    both = pair(plain).with_structured_output(Capital, include_raw=True).invoke("What is the capital of France?")
    assert isinstance(both["parsed"], Capital)
    assert both["raw"].response_metadata["signal"]["honoured"]
