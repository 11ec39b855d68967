"""Waiting for work to clean up, and resources that belong to one event loop each."""

import asyncio
import gc
import socket
import threading

import pytest

from duet_sdk._tasks import PerLoop, finished, to_the_end

TICKS = 12
"""More turns of the loop than anything here takes: cancelling at each of them meets every await."""


async def ticks(count):
    for _ in range(count):
        await asyncio.sleep(0)


class Cleaning:
    """Work that takes several turns of the loop to clean up."""

    def __init__(self):
        self.entered = asyncio.Event()
        self.cleaned = False

    async def work(self):
        try:
            self.entered.set()
            await asyncio.Event().wait()
        finally:
            await ticks(4)
            self.cleaned = True

    async def started(self):
        task = asyncio.create_task(self.work())
        await self.entered.wait()
        return task


def only_this_task_is_left():
    return asyncio.all_tasks() == {asyncio.current_task()}


async def test_finished_waits_until_every_task_has_cleaned_up():
    works = [Cleaning() for _ in range(3)]
    assert await finished([await work.started() for work in works]) == frozenset()
    assert all(work.cleaned for work in works)
    assert only_this_task_is_left()


async def test_finished_has_nothing_to_do_for_tasks_that_are_over():
    task = asyncio.create_task(asyncio.sleep(0, "result"))
    assert await task == "result"
    assert await finished([task]) == frozenset()
    assert task.result() == "result"
    assert await finished([]) == frozenset()


@pytest.mark.parametrize("at", range(TICKS))
@pytest.mark.parametrize("times", [1, 3])
async def test_finished_goes_on_when_the_waiting_task_is_cancelled(at, times):
    work = Cleaning()
    task = await work.started()

    async def leave():
        try:
            await finished([task])
        finally:
            assert task.done()
        await ticks(TICKS)

    leaving = asyncio.create_task(leave())
    await asyncio.sleep(0)
    await ticks(at)
    for _ in range(times):
        leaving.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert work.cleaned
    assert only_this_task_is_left()


async def test_finished_gives_up_on_a_task_that_does_not_end():
    release = asyncio.Event()

    async def stubborn():
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    task, quick = asyncio.create_task(stubborn()), await (work := Cleaning()).started()
    assert await finished([task, quick], within_s=0.05) == {task}
    assert work.cleaned
    release.set()
    await task


async def test_an_error_on_the_way_out_is_dropped_and_not_reported_as_forgotten():
    reports = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))

    async def fail():
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("on the way out")

    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    await finished([task])
    del task
    gc.collect()
    assert reports == []


async def test_to_the_end_gives_the_result_or_the_error():
    async def fail():
        raise ValueError("broken")

    assert await to_the_end(asyncio.sleep(0, 17)) == 17
    with pytest.raises(ValueError, match="broken"):
        await to_the_end(fail())


@pytest.mark.parametrize("at", range(8))
@pytest.mark.parametrize("times", [1, 3])
async def test_to_the_end_does_all_of_the_work_wherever_it_is_cancelled(at, times):
    steps = []

    async def work():
        for step in range(8):
            await asyncio.sleep(0)
            steps.append(step)

    waiting = asyncio.create_task(to_the_end(work()))
    await asyncio.sleep(0)
    await ticks(at)
    for _ in range(times):
        waiting.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert steps == list(range(8))
    assert only_this_task_is_left()


async def test_a_cancelled_wait_carries_the_error_of_the_work_as_its_cause():
    async def fail():
        await ticks(3)
        raise ValueError("broken")

    waiting = asyncio.create_task(to_the_end(fail()))
    await ticks(2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await waiting
    assert isinstance(caught.value.__cause__, ValueError)


async def test_work_that_is_cancelled_itself_is_told_to_whoever_waits():
    async def give_up():
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(to_the_end(give_up()), 5)


async def test_a_timeout_around_work_that_goes_to_the_end_is_a_timeout():
    done = []

    async def work():
        await asyncio.sleep(0.05)
        done.append(True)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await to_the_end(work())
    assert done


class Pipe:
    """A pair of sockets, as a resource that would be missed."""

    def __init__(self):
        self.ends = socket.socketpair()
        self.loop = asyncio.get_running_loop()
        self.closed_in = None

    async def close(self):
        await ticks(3)
        self.closed_in = asyncio.get_running_loop()
        self.drop()

    def drop(self):
        for end in self.ends:
            end.close()

    @property
    def is_open(self):
        return any(end.fileno() >= 0 for end in self.ends)


@pytest.fixture
def made():
    return []


@pytest.fixture
def pipes(made):
    def make():
        made.append(Pipe())
        return made[-1]

    yield PerLoop(make, close=Pipe.close, drop=Pipe.drop)
    assert not any(pipe.is_open for pipe in made)


def test_a_loop_keeps_its_resource_and_closes_it_at_its_end(pipes, made):
    async def use():
        one, two = await asyncio.gather(pipes.get(), pipes.get())
        assert one is two is await pipes.get()
        assert one.is_open

    for _ in range(3):
        asyncio.run(use())
    assert len(made) == 3
    assert all(pipe.closed_in is pipe.loop for pipe in made)


async def test_aclose_closes_and_a_later_call_makes_another(pipes, made):
    first = await pipes.get()
    await pipes.aclose()
    await pipes.aclose()
    assert not first.is_open
    assert await pipes.get() is not first
    await pipes.aclose()
    assert len(made) == 2
    assert only_this_task_is_left()


@pytest.mark.parametrize("at", range(6))
async def test_a_cancelled_aclose_closes_all_the_same(pipes, at):
    await pipes.get()
    closing = asyncio.create_task(pipes.aclose())
    await asyncio.sleep(0)
    await ticks(at)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    assert only_this_task_is_left()


def test_a_loop_that_is_closed_without_cleanup_leaves_nothing_open(pipes, made):
    for _ in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(pipes.get())
        loop.close()
        gc.collect()
    assert [pipe.is_open for pipe in made] == [False, False, True]  # each is let go of when the next is made
    asyncio.run(pipes.aclose())
    assert all(pipe.closed_in is None for pipe in made)


def test_a_loop_that_stands_still_closes_its_resource_when_it_goes_on(pipes, made):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(pipes.get())
    asyncio.run(pipes.aclose())
    assert made[0].is_open
    loop.run_until_complete(ticks(8))
    assert made[0].closed_in is loop
    loop.close()


@pytest.mark.filterwarnings("ignore:.*was scheduled after loop.shutdown_asyncgens:ResourceWarning")
def test_a_resource_whose_generators_were_closed_is_made_anew(pipes, made):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(pipes.get())
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert not made[0].is_open
    assert loop.run_until_complete(pipes.get()).is_open
    loop.run_until_complete(pipes.aclose())
    loop.close()


def test_two_loops_in_two_threads_have_a_resource_each(pipes, made):
    used, leave = threading.Barrier(3), threading.Event()

    async def use():
        pipe = await pipes.get()
        await asyncio.to_thread(used.wait, 5)
        await asyncio.to_thread(leave.wait, 5)
        for _ in range(100):
            if not pipe.is_open:
                break
            await asyncio.sleep(0.01)
        assert pipe.closed_in is asyncio.get_running_loop()

    errors = []

    def run():
        try:
            asyncio.run(use())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    used.wait(5)
    assert len(made) == 2
    asyncio.run(pipes.aclose())  # from a third loop: each of the others closes its own
    leave.set()
    for thread in threads:
        thread.join(10)
    assert errors == []


def test_one_that_is_forgotten_closes_its_resources():
    async def use():
        made = []
        pipes = PerLoop(lambda: made.append(Pipe()) or made[-1], close=Pipe.close)
        await pipes.get()
        del pipes
        await ticks(8)
        assert not made[0].is_open

    asyncio.run(use())
