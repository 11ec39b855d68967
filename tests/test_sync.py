"""The synchronous client: threads, running loops, early exits, interrupts."""

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from duet_sdk import AsyncDuetClient, DuetClient
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.errors import ConfigError, ConnectFailed, InvalidRequest
from duet_sdk.events import AnswerDelta, Done
from duet_sdk.gate import Gate


def duet_threads():
    return [thread for thread in threading.enumerate() if thread.name == "duet"]


def test_chat_answers():
    with DuetClient(Scripted("sketch"), Scripted("answer")) as duet:
        assert duet.chat("q").text == "answer"


def test_a_synchronous_face_shares_the_pair_with_asynchronous_code():
    generator = Scripted("one", "two")
    client = AsyncDuetClient(Scripted("sketch"), generator)
    with DuetClient.over(client) as duet:
        assert duet.chat("q").text == "one"
        assert asyncio.run(client.chat("q")).text == "two"
        assert duet.models == client.models
    assert generator.closed


def test_a_synchronous_face_that_is_forgotten_leaves_the_models_open():
    generator = Scripted("one")
    client = AsyncDuetClient(Scripted("sketch"), generator)
    face = DuetClient.over(client)
    assert face.chat("q").text == "one"
    del face
    gc.collect()
    assert not generator.closed
    assert asyncio.run(client.chat("q")).text == "one"


def test_errors_arrive_in_the_thread_that_asked():
    with DuetClient(Scripted("s"), Scripted("a")) as duet:
        with pytest.raises(InvalidRequest, match="question is empty"):
            duet.chat("")
        assert duet.chat("q").text == "a"


def test_a_stream_gives_every_event_and_the_reply():
    with DuetClient(Scripted("s"), Scripted("one two")) as duet, duet.stream("q") as run:
        events = list(run)
        assert isinstance(events[-1], Done)
        assert run.reply.text == "one two"
        assert list(run) == []


def test_leaving_a_stream_early_ends_the_stage_before_the_next_line_runs():
    generator = Scripted(Script("one two three", stall_after=2))
    with DuetClient(Scripted("s"), generator) as duet:
        with duet.stream("q") as run:
            for event in run:
                if isinstance(event, AnswerDelta) and event.text == " two":
                    break
        assert (generator.open_calls, generator.cancelled) == (0, 1)
        assert (run.reply.text, run.reply.finish_reason) == ("one two", "cancelled")


def test_a_stream_is_iterated_inside_its_context():
    with DuetClient(Scripted("s"), Scripted("a")) as duet, pytest.raises(InvalidRequest, match="with duet"):
        next(duet.stream("q"))


def test_an_error_in_a_stream_is_raised_where_it_is_iterated():
    broken = Scripted(Script(error=ConnectFailed("x", backend="b", model="m")))
    with DuetClient(broken, broken) as duet, duet.stream("q") as run, pytest.raises(ConnectFailed):
        list(run)


def test_many_threads_share_one_client():
    reasoner = Scripted(lambda call: f"for {call.messages[-1].text}")
    generator = Scripted(lambda call: Script(call.messages[-1].text.split("for ")[1].split("\n")[0], token_s=0.002))
    with DuetClient(reasoner, generator) as duet, ThreadPoolExecutor(16) as pool:
        texts = list(pool.map(lambda number: duet.chat(f"q{number}").text, range(100)))
    assert texts == [f"q{number}" for number in range(100)]


def test_it_works_inside_the_thread_of_a_running_event_loop():
    async def notebook():
        with DuetClient(Scripted("s"), Scripted("one two")) as duet:
            with duet.stream("q") as run:
                streamed = [event.text for event in run if isinstance(event, AnswerDelta)]
            return duet.chat("q").text, streamed

    assert asyncio.run(notebook()) == ("one two", ["one", " two"])


def test_its_own_callbacks_get_an_error_instead_of_a_deadlock():
    with DuetClient(Scripted("s"), Scripted(lambda call: duet.chat("again").text), on_failure="raise") as duet:
        with pytest.raises(ConfigError, match="use AsyncDuetClient there"):
            duet.chat("q")


def test_closing_ends_the_thread_and_says_so_to_later_calls():
    duet = DuetClient(Scripted("s"), Scripted("a"))
    duet.chat("q")
    duet.close()
    duet.close()
    assert duet_threads() == []
    with pytest.raises(ConfigError, match="closed"):
        duet.chat("q")


def test_closing_from_another_thread_ends_a_request_that_runs():
    reasoner = Scripted(Script("never", stall_after=0))
    duet = DuetClient(reasoner, Scripted("a"))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(duet.chat, "q")
        while not reasoner.open_calls:
            pass
        duet.close()
        with pytest.raises(ConfigError, match="closed while this request ran"):
            asked.result(timeout=10)
    assert reasoner.open_calls == 0


def test_a_client_that_is_forgotten_leaves_no_thread():
    duet = DuetClient(Scripted("s"), Scripted("a"))
    duet.chat("q")
    del duet
    gc.collect()
    assert duet_threads() == []


def test_a_client_that_is_forgotten_in_a_cycle_closes_its_models():
    reasoner = Scripted("s")
    duet = DuetClient(reasoner, Scripted("a"))
    duet.chat("q")
    knot = [duet]
    knot.append(knot)
    del duet, knot
    gc.collect()
    assert reasoner.closed
    assert duet_threads() == []


def test_a_conversation_keeps_its_messages():
    with DuetClient(Scripted("s"), Scripted("first", "second")) as duet:
        talk = duet.conversation()
        talk.chat("one?")
        with talk.stream("two?") as run:
            list(run)
        assert [message.text for message in talk.messages] == ["one?", "first", "two?", "second"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_after_a_fork_the_child_gets_an_error_instead_of_hanging():
    code = """
        import os, warnings
        warnings.simplefilter("ignore")
        from duet_sdk import DuetClient
        duet = DuetClient("scripted/s", "scripted/a")
        duet.chat("q")
        if os.fork() == 0:
            try:
                duet.chat("q")
            except Exception as error:
                print(type(error).__name__, flush=True)
            os._exit(0)
        os.wait()
        print(duet.chat("q").text)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["ConfigError", "a"]


@pytest.mark.parametrize("call", ["duet.chat('q')", "with duet.stream('q') as run: list(run)"])
def test_an_interrupt_ends_the_request_at_once_and_cleanly(call):
    # The reasoner itself interrupts the process, so that it happens inside the call.
    code = f"""
        import os, signal
        from duet_sdk import DuetClient
        from duet_sdk.backends.scripted import Script, Scripted

        def interrupt(call):
            os.kill(os.getpid(), signal.SIGINT)
            return Script("never said", stall_after=0)

        reasoner = Scripted(interrupt)
        with DuetClient(reasoner, Scripted("a")) as duet:
            try:
                {call}
            except KeyboardInterrupt:
                print("interrupted", reasoner.open_calls, reasoner.cancelled)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout.split(), done.stderr) == (["interrupted", "0", "1"], "")


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_what_would_end_the_loops_thread_reaches_the_caller_instead(error):
    class Gate:
        name = "mine"

        async def decide(self, request):
            raise error

    with DuetClient(Scripted("s"), Scripted("a")) as duet:
        with pytest.raises(type(error)):
            duet.chat("q", gate=Gate())
        with duet.stream("q", gate=Gate()) as run, pytest.raises(type(error)):
            list(run)
        assert duet.chat("q").text == "a"


def test_threads_that_ask_while_the_client_is_closed_all_get_an_answer_or_an_error():
    for _ in range(20):
        duet = DuetClient(Scripted("s"), Scripted("a"))

        def ask_until_closed(duet=duet):
            with pytest.raises(ConfigError):
                while True:
                    duet.chat("q")

        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask_until_closed) for _ in range(4)]
            duet.chat("q")
            duet.close()
            for one in asking:
                one.result(timeout=20)


def test_a_model_that_will_not_close_leaves_no_thread():
    class Stubborn(Scripted):
        async def aclose(self):
            raise RuntimeError("will not close")

    duet = DuetClient(Stubborn("s"), Scripted("a"))
    with pytest.raises(RuntimeError):
        duet.close()
    assert duet_threads() == []


def test_a_run_of_a_closed_client_is_over_after_its_error():
    duet = DuetClient(Scripted("s"), Scripted("a"))
    run = duet.stream("q")
    duet.close()
    rest = []

    def read():
        with run:
            with pytest.raises(ConfigError, match="this client is closed"):
                next(run)
            rest.append(list(run))

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    reading.join(timeout=10)
    assert rest == [[]]


def test_a_run_that_another_thread_closes_just_ends():
    class Slow(Scripted):
        def __init__(self):
            super().__init__()
            self.connecting = threading.Event()

        async def connect(self):
            self.connecting.set()
            await asyncio.Event().wait()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads take turns at every step
    try:
        for _ in range(100):
            slow = Slow()
            with DuetClient(Scripted("s"), slow) as duet, duet.stream("q", mode="generator") as run:

                def close(slow=slow, run=run):
                    slow.connecting.wait()
                    run.close()

                closing = threading.Thread(target=close)
                closing.start()
                assert list(run) == []
                assert run.reply.finish_reason == "cancelled"
                closing.join()
    finally:
        sys.setswitchinterval(interval)


def test_a_client_that_its_own_gate_closes_leaves_neither_thread_nor_loop(monkeypatch):
    loops = []
    new_event_loop = asyncio.new_event_loop
    monkeypatch.setattr(asyncio, "new_event_loop", lambda: loops.append(new_event_loop()) or loops[-1])

    class Closing(Gate):
        name = "closing"

        async def decide(self, request):
            duet.close()
            raise AssertionError("unreachable: it says that it cannot be used from here")

    duet = DuetClient(Scripted("s"), Scripted("a"), gate=Closing())
    with pytest.raises(ConfigError, match="from its own callbacks"):
        duet.chat("q")
    for thread in duet_threads():
        thread.join(timeout=10)
    assert duet_threads() == []
    assert [loop.is_closed() for loop in loops] == [True]
