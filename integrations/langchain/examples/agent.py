"""An agent with two tools: signal and answer stream, its thread has a budget. Scripted models, no server."""

import asyncio

from langchain.agents import create_agent
from langchain_duet import ChatDuet
from langgraph.checkpoint.memory import InMemorySaver

from duet_sdk import BudgetExceeded, Limit, ToolCall
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.budget import MemoryLedger

PEOPLE = {"Paris": 2_100_000, "Lyon": 520_000}


def look_up(city: str) -> int:
    """Look up how many people live in a city."""
    return PEOPLE[city]


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def calls(number: int, name: str, arguments: str) -> Script:
    """What a generator writes that calls a tool."""
    return Script(tool_calls=(ToolCall(f"call-{number}", name, arguments),))


def model(ledger: MemoryLedger) -> ChatDuet:
    """With real models: reasoner="vllm/…@http://…/v1", generator="vllm/…@http://…/v1"."""
    generator = Scripted(
        calls(1, "look_up", '{"city": "Paris"}'),
        calls(2, "look_up", '{"city": "Lyon"}'),
        calls(3, "add", '{"a": 2100000, "b": 520000}'),
        "Paris and Lyon have 2,620,000 people together.",
    )
    return ChatDuet(reasoner=Scripted("Look up both cities, then add."), generator=generator, ledger=ledger)


async def main() -> None:
    """Ask, and show the signal and the answer as they are written."""
    ledger = MemoryLedger()
    await ledger.set_limit("session:7", Limit(requests=10))
    agent = create_agent(model(ledger), [look_up, add], checkpointer=InMemorySaver())
    question = {"messages": "How many people live in Paris and Lyon together?"}
    try:
        pieces = agent.astream(question, {"configurable": {"thread_id": "7"}}, stream_mode="messages")
        async for piece, _ in pieces:
            print(piece.additional_kwargs.get("reasoning_content", ""), end="")
            print(piece.text, end="\n" if piece.type == "tool" else "")
    except BudgetExceeded as error:
        print(f"\nstopped: {error}")
    balance = await ledger.balance("session:7")
    print(f"\n{balance.spent.requests} requests, {balance.spent.reasoner_tokens} tokens of the reasoner")


asyncio.run(main())
