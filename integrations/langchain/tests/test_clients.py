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
from langchain_duet import ChatDuet
from pairs import pair
from support.fault_server import Answer, FaultServer, running

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
