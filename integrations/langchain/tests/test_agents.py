"""LangGraph's agents on a pair: eight tool turns, checkpoints, interruption, streams, and a budget for each thread."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from agent_answers import FINAL, PLAN, TOOLS, notes_in, working
from langchain.agents import create_agent
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import (
    AIMessage,
    HumanMessage,
    ToolMessage,
    message_chunk_to_message,
    messages_from_dict,
    messages_to_dict,
)
from langchain_duet import ChatDuet
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from pairs import calls, pair
from pydantic import BaseModel
from support.fault_server import FaultServer, running

from duet_sdk import BudgetExceeded, Limit
from duet_sdk.budget import MemoryLedger

QUESTION = {"messages": [HumanMessage("How many people are there in all?")]}


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with running(working(8), models=("reasoner", "generator")) as server:
        yield server


def served(server: FaultServer, **options: object) -> ChatDuet:
    return ChatDuet(reasoner=f"vllm/reasoner@{server.url}", generator=f"vllm/generator@{server.url}", **options)


def asked(server: FaultServer, model: str) -> list[dict]:
    return [body for body in server.calls if body["model"] == model]


def transcript(messages: list) -> list[tuple]:
    lines = []
    for message in messages:
        match message:
            case AIMessage(tool_calls=[one]):
                lines.append(("call", one["name"], one["args"]))
            case AIMessage():
                lines.append(("answer", message.text))
            case ToolMessage():
                lines.append(("result", message.text))
            case HumanMessage():
                lines.append(("question", message.text))
    return lines


EIGHT_TURNS = [
    ("question", "How many people are there in all?"),
    ("call", "look_up", {"city": "city 0"}),
    ("result", "city 0 has 7 people"),
    ("call", "add", {"a": 1, "b": 1}),
    ("result", "2"),
    ("call", "look_up", {"city": "city 2"}),
    ("result", "city 2 has 7 people"),
    ("call", "add", {"a": 3, "b": 1}),
    ("result", "4"),
    ("call", "look_up", {"city": "city 4"}),
    ("result", "city 4 has 7 people"),
    ("call", "add", {"a": 5, "b": 1}),
    ("result", "6"),
    ("call", "look_up", {"city": "city 6"}),
    ("result", "city 6 has 7 people"),
    ("call", "add", {"a": 7, "b": 1}),
    ("result", "8"),
    ("answer", FINAL),
]


async def test_an_agent_works_eight_tool_turns_with_at_most_two_calls_of_the_reasoner(server):
    state = await create_agent(served(server), TOOLS).ainvoke(QUESTION)
    assert transcript(state["messages"]) == EIGHT_TURNS
    assert len(asked(server, "generator")) == 9
    assert len(asked(server, "reasoner")) <= 2
    assert state["messages"][-1].response_metadata["run"]["reasoner_calls"] == len(asked(server, "reasoner"))


def test_a_synchronous_agent_does_the_same(server):
    state = create_agent(served(server), TOOLS).invoke(QUESTION)
    assert transcript(state["messages"]) == EIGHT_TURNS
    assert len(asked(server, "reasoner")) <= 2


def test_the_signal_keeps_its_place_in_every_prompt_of_the_run(server):
    create_agent(served(server), TOOLS, system_prompt="Be exact.").invoke(QUESTION)
    first, *later = [notes_in(body) for body in asked(server, "generator")]
    assert first == [1]
    assert all(places[0] == 1 for places in later)


def test_in_scope_turn_the_reasoner_is_asked_every_time(server):
    create_agent(served(server, signal_scope="turn"), TOOLS).invoke(QUESTION)
    assert len(asked(server, "reasoner")) == 9


def test_a_new_question_in_the_thread_is_planned_anew(server):
    agent = create_agent(served(server), TOOLS, checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "t"}}
    agent.invoke(QUESTION, thread)
    before = len(asked(server, "reasoner"))
    state = agent.invoke({"messages": [HumanMessage("And now?")]}, thread)
    assert len(asked(server, "reasoner")) > before
    assert transcript(state["messages"])[18:20] == [("question", "And now?"), ("call", "look_up", {"city": "city 0"})]


RESUME = """
    import sys
    from agent_answers import TOOLS
    from langchain.agents import create_agent
    from langgraph.checkpoint.sqlite import SqliteSaver
    from langchain_duet import ChatDuet

    url, file = sys.argv[1:]
    model = ChatDuet(reasoner=f"vllm/reasoner@{url}", generator=f"vllm/generator@{url}")
    with SqliteSaver.from_conn_string(file) as saver:
        agent = create_agent(model, TOOLS, checkpointer=saver)
        state = agent.invoke(None, {"configurable": {"thread_id": "t"}})
    sys.stdout.write(state["messages"][-1].text)
"""


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("version", ["v0", "v1"])
def test_what_a_model_wants_back_comes_back_through_json(streamed, version):
    wants = {"message": {"reasoning_content": "I look it up."}, "calls": {}}
    model, *_ = pair("plan", replace(calls("look_up"), provider_parts=wants), output_version=version)
    bound = model.bind_tools(TOOLS)
    asked = HumanMessage("How many?")
    if streamed:
        pieces = list(bound.stream([asked]))
        said = sum(pieces[1:], pieces[0])
        said = message_chunk_to_message(said)
    else:
        said = bound.invoke([asked])
    stored = messages_from_dict(json.loads(json.dumps(messages_to_dict([asked, said]))))
    other, _, generator = pair("another plan", "Five.")
    other.bind_tools(TOOLS).invoke([*stored, ToolMessage("2", tool_call_id="c1")])
    sent = generator.calls[0].messages[2].provider_parts
    assert json.loads(sent.text)["message"] == {"reasoning_content": "I look it up."}


def test_an_interrupted_run_goes_on_in_another_process_with_its_signal(server, tmp_path: Path):
    file = tmp_path / "threads.sqlite"
    thread = {"configurable": {"thread_id": "t"}}
    with SqliteSaver.from_conn_string(str(file)) as saver:
        agent = create_agent(served(server), TOOLS, checkpointer=saver, interrupt_before=["tools"])
        state = agent.invoke(QUESTION, thread)
        assert agent.get_state(thread).next == ("tools",)
    assert state["messages"][-1].additional_kwargs["reasoning_content"] == PLAN
    before = len(asked(server, "generator"))

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RESUME), server.url, str(file)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.returncode) == (FINAL, 0), done.stderr
    resumed = asked(server, "generator")[before:]
    assert len(resumed) == 8
    assert all(notes_in(body)[0] == 1 for body in resumed), "the signal that was written before the interruption"
    assert len(asked(server, "reasoner")) <= 2


async def test_an_agent_streams_signal_and_answer(server):
    server.answer = working(1)
    pieces = [
        message
        async for message, _ in create_agent(served(server), TOOLS).astream(QUESTION, stream_mode="messages")
        if isinstance(message, AIMessage)
    ]
    signal = [piece.additional_kwargs["reasoning_content"] for piece in pieces if piece.additional_kwargs]
    assert "".join(signal) == PLAN
    assert "".join(piece.text for piece in pieces) == FINAL
    assert len([piece for piece in pieces if piece.text]) > 1


async def test_every_thread_has_a_budget_of_its_own(server):
    server.answer = working(2)
    ledger = MemoryLedger()
    await ledger.set_limit("session:small", Limit(requests=2))
    agent = create_agent(served(server, ledger=ledger), TOOLS, checkpointer=InMemorySaver())
    with pytest.raises(BudgetExceeded) as caught:
        await agent.ainvoke(QUESTION, {"configurable": {"thread_id": "small"}})
    assert (caught.value.scope, caught.value.limit) == ("session:small", 2)
    state = await agent.ainvoke(QUESTION, {"configurable": {"thread_id": "other"}})
    assert state["messages"][-1].text == FINAL
    assert (await ledger.balance("session:other")).spent.requests == 3


class Total(BaseModel):
    """The result."""

    people: int


@pytest.mark.parametrize("wanted", [Total, ToolStrategy(Total)])
def test_an_agents_last_answer_can_have_a_form(wanted):
    model, *_ = pair(
        "notes", calls("look_up", '{"city": "Paris"}', id_="c1"), calls("Total", '{"people": 7}', id_="c2")
    )
    state = create_agent(model, TOOLS, response_format=wanted).invoke(QUESTION)
    assert state["structured_response"] == Total(people=7)


def test_a_call_of_an_unknown_tool_comes_back_as_its_error():
    model, _, generator = pair("notes", calls("fly", "{}"), "I cannot fly.")
    state = create_agent(model, TOOLS).invoke(QUESTION)
    assert state["messages"][-1].text == "I cannot fly."
    result = next(message for message in generator.calls[1].messages if message.role == "tool")
    assert "fly is not a valid tool" in result.text
    assert result.failed


def test_a_tool_call_with_broken_arguments_leaves_a_thread_that_goes_on():
    model, _, generator = pair("notes", calls("add", '{"a": '), "Three.")
    agent = create_agent(model, TOOLS, checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "t"}}
    state = agent.invoke(QUESTION, thread)
    assert state["messages"][-1].invalid_tool_calls[0]["args"] == '{"a": '
    state = agent.invoke({"messages": [HumanMessage("1+2?")]}, thread)
    assert state["messages"][-1].text == "Three."
    broken, result = generator.calls[1].messages[2:4]
    assert [call.arguments for call in broken.tool_calls] == ["{}"], "no server can read the broken ones again"
    assert result.failed
