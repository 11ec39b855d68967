"""One model from many places: event loops, threads, processes, and when it is forgotten."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain.agents import create_agent
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_duet import ChatDuet
from pairs import pair
from support.fault_server import Answer, FaultServer, running

from duet_sdk import AsyncDuetClient, ConfigError, DuetClient, InvalidRequest, Misuse
from duet_sdk.backends.scripted import Scripted
from duet_sdk.budget import MemoryLedger


@pytest.fixture
def server():
    with running(Answer("hello"), models=("r", "g")) as server:
        yield server


def loops(*, but: Collection[threading.Thread] = ()) -> list[threading.Thread]:
    """The threads of clients, but for those of models that other tests have left to the garbage collector."""
    return [thread for thread in threading.enumerate() if thread.name == "duet" and thread not in but]


def served(server: FaultServer) -> ChatDuet:
    return ChatDuet(reasoner=f"vllm/r@{server.url}", generator=f"vllm/g@{server.url}")


def test_one_model_works_in_one_event_loop_after_another(server):
    model = served(server)

    async def ask() -> list[str]:
        return [message.text for message in await model.abatch(["a", "b", "c"])]

    assert asyncio.run(ask()) == ["hello"] * 3
    assert asyncio.run(ask()) == ["hello"] * 3
    assert model.invoke("d").text == "hello"


def test_one_model_works_in_many_loops_and_threads_at_once(server):
    model = served(server)

    def ask(at: int) -> str:
        return (asyncio.run(model.ainvoke("q")) if at % 2 else model.invoke("q")).text

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(16))) == ["hello"] * 16


async def test_a_synchronous_call_works_where_an_event_loop_runs(server):
    assert served(server).invoke("q").text == "hello"


def test_a_batch_runs_at_once_over_one_client():
    others = loops()
    model, *_ = pair()
    assert [message.text for message in model.batch(["q"] * 8, {"max_concurrency": 4})] == ["the answer"] * 8
    assert len(loops(but=others)) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("before", ["pass", "model.invoke('q')", "asyncio.run(model.ainvoke('q'))"])
def test_after_a_fork_the_child_has_clients_of_its_own(server, before):
    code = f"""
        import asyncio, os, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, on forking with threads
        from langchain_duet import ChatDuet
        model = ChatDuet(reasoner="vllm/r@{server.url}", generator="vllm/g@{server.url}")
        {before}
        if (child := os.fork()) == 0:
            both = [model.invoke("q").text, asyncio.run(model.ainvoke("q")).text]
            os._exit(0 if both == ["hello", "hello"] else 1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert model.invoke("q").text == "hello"
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_model_that_is_forgotten_leaves_no_thread_and_no_connection(server):
    others = loops()
    model = served(server)
    model.invoke("q")
    del model
    gc.collect()  # an open connection would be a warning, and so an error
    assert loops(but=others) == []


async def test_a_closed_model_opens_again(server):
    others = loops()
    model = served(server)
    await model.ainvoke("q")
    model.invoke("q")
    await model.aclose()
    model.close()
    assert loops(but=others) == []
    assert (model.invoke("q").text, (await model.ainvoke("q")).text) == ("hello", "hello")


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_answers_like_the_model(server, again):
    model = served(server)
    model.invoke("q")
    assert again(model).invoke("q").text == "hello"


def test_both_kinds_of_call_share_one_ledger():
    ledger = MemoryLedger()
    model, *_ = pair(ledger=ledger, session="s")
    model.invoke("q")
    asyncio.run(model.ainvoke("q"))
    assert asyncio.run(ledger.balance("session:s")).spent.requests == 2


def test_a_ledger_can_be_named_by_its_url(tmp_path):
    model, *_ = pair(ledger=f"sqlite:///{tmp_path / 'ledger.db'}", session="s")
    model.invoke("How many?")
    asyncio.run(model.ainvoke("How many?"))
    model.close()
    with DuetClient("scripted/a", "scripted/b", ledger=model.ledger) as duet:
        assert duet.ledger.balance("session:s").spent.requests == 2


def given(kind, **options):
    reasoner, generator = Scripted("notes"), Scripted("the answer")
    return kind(reasoner, generator, **options)


@pytest.mark.parametrize("kind", [DuetClient, AsyncDuetClient])
def test_a_client_that_exists_answers_and_stays_open(kind):
    client = given(kind, gate="never")
    model = ChatDuet(client=client)
    assert model.invoke("q").response_metadata["gate"]["policy"] == "never"
    assert asyncio.run(model.ainvoke("q")).text == "the answer"
    assert "".join(chunk.text for chunk in model.stream("q")) == "the answer"
    model.close()
    asyncio.run(model.aclose())
    assert model.invoke("q").text == "the answer"
    assert model.model_name == "scripted/lines"
    assert copy.copy(model).invoke("q").text == "the answer"
    if kind is DuetClient:
        client.close()
    else:
        asyncio.run(client.aclose())


def test_a_client_comes_alone():
    with given(DuetClient) as client:
        with pytest.raises(ConfigError, match="the client has its own reasoner, gate: leave these out"):
            ChatDuet("scripted/a", client=client, gate="never")
        with pytest.raises(InvalidRequest, match="model= names another generator than the client's"):
            ChatDuet(client=client).invoke("q", model="scripted/other")
        with pytest.raises(ConfigError, match="client must be a DuetClient or an AsyncDuetClient, got str"):
            ChatDuet(client="scripted/a")


def test_two_clients_of_the_same_models_share_no_cached_answer():
    with given(DuetClient) as one, given(DuetClient, gate="never") as other:
        keys = {ChatDuet(client=client)._get_llm_string() for client in (one, one, other)}
    assert len(keys) == 2


def test_models_by_their_places():
    model = ChatDuet("scripted/17", "scripted/There are 17.", gate="never")
    assert (model.reasoner, model.generator) == ("scripted/17", "scripted/There are 17.")
    assert model.invoke("q").text == "There are 17."


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def test_a_client_in_an_agents_place_says_what_to_use():
    with given(DuetClient) as client:
        for use in (
            lambda: create_agent(client, [add]).invoke({"messages": "q"}),
            lambda: client.bind_tools([add]),
            lambda: client.with_structured_output(dict),
            lambda: (ChatPromptTemplate.from_messages([("human", "{q}")]) | client).invoke({"q": "q"}),
            lambda: (client | StrOutputParser()).invoke("q"),
        ):
            with pytest.raises(Misuse, match=r"ChatDuet\(client=duet\)"):
                use()
        agent = create_agent(ChatDuet(client=client), [add])
        assert agent.invoke({"messages": "q"})["messages"][-1].text == "the answer"
