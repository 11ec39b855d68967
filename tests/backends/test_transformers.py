from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import blockbuster
import pytest

pytest.importorskip("transformers", reason="needs the extra 'local'")

import torch
from support import tiny_model

from duet_sdk import models
from duet_sdk.backends import Backend, Call, Capabilities, Chunk
from duet_sdk.backends.local.generation import load
from duet_sdk.backends.local.transformers import TransformersBackend, connect
from duet_sdk.errors import (
    BackendError,
    ConfigError,
    ContextOverflow,
    MissingExtra,
    ModelNotFound,
    Rejected,
    StreamBroken,
)
from duet_sdk.policies import Sampling
from duet_sdk.pricing import FREE
from duet_sdk.types import ImagePart, Message

QUESTION = (Message("user", "Say it."),)


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.random_weights(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture
async def random_model(random_folder: Path) -> AsyncIterator[TransformersBackend]:
    backend = TransformersBackend(str(random_folder), dtype="float32")
    yield backend
    await backend.aclose()


@pytest.fixture
async def recite(tmp_path: Path) -> AsyncIterator[Any]:
    """Makes backends that recite the pieces given."""
    made: list[TransformersBackend] = []

    def make(*pieces: str | bytes, **options: Any) -> TransformersBackend:
        folder = tiny_model.recite(tmp_path / f"recites-{len(made)}", list(pieces), **options)
        made.append(TransformersBackend(str(folder), dtype="float32"))
        return made[-1]

    yield make
    for backend in made:
        await backend.aclose()


async def collect(backend: TransformersBackend, max_tokens: int = 20, **call: Any) -> list[Chunk]:
    call.setdefault("messages", () if "prompt_ids" in call else QUESTION)
    return [chunk async for chunk in backend.stream(Call(max_tokens=max_tokens, **call))]


def text(chunks: list[Chunk], index: int = 0) -> str:
    return "".join(chunk.text for chunk in chunks if chunk.index == index)


def workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("duet-transformers")]


# What it is and can do


def test_a_backend_is_what_the_protocol_asks_for() -> None:
    backend = connect("embedded", {})
    assert isinstance(backend, Backend)
    assert (backend.name, backend.model, backend.price) == ("transformers", "embedded", FREE)


async def test_connect_tells_what_the_model_can_do(random_model: TransformersBackend) -> None:
    assert await random_model.connect() == Capabilities(
        context_tokens=4096, prompt_ids=True, token_ids=True, logprobs=True, switch_thinking=True
    )


async def test_a_template_without_a_switch_cannot_switch_thinking(recite: Any, tmp_path: Path) -> None:
    backend = recite("Yes")
    (tmp_path / "recites-0" / "chat_template.jinja").write_text("{{ messages[0]['content'] }}\n")
    assert (await backend.connect()).switch_thinking is False


async def test_the_tokenizer_is_the_one_in_the_folder(random_model: TransformersBackend) -> None:
    files = await random_model.tokenizer()
    assert files.chat_template == tiny_model.TEMPLATE


async def test_messages_are_counted_with_the_chat_template(random_model: TransformersBackend) -> None:
    # 2 control tokens and one per byte: "user\n", "Say it.", "\n", then 1 and "assistant\n".
    assert await random_model.count_tokens(QUESTION) == 2 + 5 + 7 + 1 + 1 + 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "http://127.0.0.1:1/v1"}, "no option 'base_url'"),
        ({"dtype": 16}, "'dtype' must be of type str"),
        ({"price": 0.1}, "'price' must be of type TokenPrice"),
    ],
)
def test_an_option_that_it_does_not_know_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        connect("embedded", options)


@pytest.mark.parametrize(("option", "value"), [("dtype", "int7"), ("device", "abacus"), ("device", "cuda:0")])
async def test_a_dtype_or_device_that_is_not_there_is_refused(
    random_folder: Path, option: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=value):
        await connect(str(random_folder), {option: value}).connect()


def test_without_torch_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duet_sdk.backends.local.transformers.find_spec", lambda _name: None)
    with pytest.raises(MissingExtra, match=r"\[local\]"):
        connect("embedded", {})


# One copy of the weights


async def test_two_backends_of_one_model_share_its_weights(random_folder: Path) -> None:
    first, second = (TransformersBackend(str(random_folder), dtype="float32") for _ in range(2))
    await asyncio.gather(first.connect(), second.connect())
    assert first._loaded is not None
    assert first._loaded is second._loaded
    other = TransformersBackend(str(random_folder), dtype="bfloat16")
    await other.connect()
    assert other._loaded is not first._loaded
    for backend in (first, second, other):
        await backend.aclose()


async def test_closing_one_backend_leaves_the_other_its_weights(random_folder: Path) -> None:
    first, second = (TransformersBackend(str(random_folder), dtype="float32") for _ in range(2))
    await first.connect()
    await second.connect()
    await first.aclose()
    assert len(await collect(second, 3)) == 3
    await second.aclose()


# Streaming


async def test_each_token_is_a_chunk_and_the_last_tells_why_it_ended(recite: Any) -> None:
    chunks = await collect(recite("The", " answer", " is", " 17."))
    assert [chunk.text for chunk in chunks] == ["The", " answer", " is", " 17.", ""]
    assert [chunk.finish_reason for chunk in chunks] == [None, None, None, None, "stop"]
    assert all(len(chunk.token_ids) == 1 for chunk in chunks)


async def test_usage_counts_every_sampled_token_with_the_end_token(recite: Any) -> None:
    chunks = await collect(recite("One", " two"))
    assert [chunk.usage.output_tokens for chunk in chunks if chunk.usage] == [1, 2, 3]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.input_tokens == 26


async def test_the_limit_ends_an_output_with_length(recite: Any) -> None:
    chunks = await collect(recite("One", " two", " three"), 2)
    assert text(chunks) == "One two"
    assert chunks[-1].finish_reason == "length"


async def test_an_end_token_at_the_limit_is_a_stop(recite: Any) -> None:
    assert (await collect(recite("One", " two"), 3))[-1].finish_reason == "stop"


async def test_a_prompt_goes_in_as_token_ids(recite: Any) -> None:
    backend = recite("One", " two", " three", " four")
    ids = [chunk.token_ids[0] for chunk in await collect(backend)]
    chunks = await collect(backend, prompt_ids=tuple(ids[:2]))
    assert text(chunks) == " three four"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.input_tokens == 2


async def test_n_outputs_come_one_after_the_other(recite: Any) -> None:
    chunks = await collect(recite("Yes", "."), n=3)
    assert [chunk.index for chunk in chunks] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [text(chunks, index) for index in range(3)] == ["Yes."] * 3
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.output_tokens == 9


async def test_control_tokens_are_hidden_and_think_tags_are_not(recite: Any) -> None:
    backend = recite("<think>", "Hm", ".", "</think>", "<|im_start|>", "Yes")
    assert text(await collect(backend)) == "<think>Hm.</think>Yes"


async def test_thinking_is_switched_off_in_the_prompt(recite: Any) -> None:
    backend = recite("Yes")
    usages = [(await collect(backend, thinking=thinking))[-1].usage for thinking in (None, True, False)]
    assert [usage.input_tokens for usage in usages if usage] == [26, 26, 32]


# Text


async def test_a_character_of_several_tokens_comes_whole(recite: Any) -> None:
    chunks = await collect(recite("Caf", b"\xc3", b"\xa9", " ", b"\xf0", b"\x9f", b"\x98", b"\x80"))
    assert [chunk.text for chunk in chunks] == ["Caf", "", "é", " ", "", "", "", "😀", ""]


@pytest.mark.parametrize("limit", [5, 6, 7])
async def test_a_limit_inside_a_character_drops_the_half_character(recite: Any, limit: int) -> None:
    chunks = await collect(recite("Caf", b"\xc3", b"\xa9", " ", b"\xf0", b"\x9f", b"\x98", b"\x80"), limit)
    assert text(chunks) == "Café "
    assert len(chunks) == limit


async def test_any_bytes_can_be_sampled_without_an_error(random_model: TransformersBackend) -> None:
    for seed in range(5):
        chunks = await collect(random_model, 60, sampling=Sampling(temperature=2.0, seed=seed))
        assert chunks[-1].finish_reason is not None


async def test_a_stop_text_across_tokens_ends_at_once_and_is_not_shown(recite: Any) -> None:
    chunks = await collect(
        recite("It is 17", ".\n", "\nQues", "tion", ": none"), sampling=Sampling(stop=("\n\nQuestion",))
    )
    assert text(chunks) == "It is 17."
    assert chunks[-1].finish_reason == "stop"
    assert len(chunks) == 4


async def test_what_could_have_become_a_stop_text_comes_late_but_whole(recite: Any) -> None:
    chunks = await collect(recite("A", "B", "C", "X"), sampling=Sampling(stop=("BCD",)))
    assert [chunk.text for chunk in chunks] == ["A", "", "", "BCX", ""]


async def test_what_is_held_back_at_the_end_is_shown(recite: Any) -> None:
    stop = Sampling(stop=("BCD",))
    assert text(await collect(recite("A", "B", "C"), sampling=stop)) == "ABC"
    assert text(await collect(recite("A", "B", "C", "D"), 3, sampling=stop)) == "ABC"


async def test_the_first_of_several_stop_texts_wins(recite: Any) -> None:
    assert text(await collect(recite("one two three"), sampling=Sampling(stop=("three", "two")))) == "one "


async def test_a_special_token_can_be_a_stop_text(recite: Any) -> None:
    chunks = await collect(recite("A", "<|im_start|>", "B"), sampling=Sampling(stop=("<|im_start|>",)))
    assert (text(chunks), chunks[-1].finish_reason) == ("A", "stop")


# Sampling


async def test_the_same_seed_gives_the_same_text_and_another_seed_another(
    random_model: TransformersBackend,
) -> None:
    async def sampled(seed: int) -> list[int]:
        chunks = await collect(random_model, sampling=Sampling(temperature=1.0, seed=seed))
        return [chunk.token_ids[0] for chunk in chunks]

    assert await sampled(1) == await sampled(1)
    assert await sampled(1) != await sampled(2)


async def test_without_a_seed_two_samples_differ(random_model: TransformersBackend) -> None:
    first, second = [await collect(random_model, sampling=Sampling(temperature=1.0)) for _ in range(2)]
    assert [chunk.token_ids for chunk in first] != [chunk.token_ids for chunk in second]


async def test_seeds_hold_among_concurrent_calls_and_leave_torchs_own_generator_alone(
    random_model: TransformersBackend,
) -> None:
    async def sampled(seed: int) -> str:
        return text(await collect(random_model, 30, sampling=Sampling(temperature=1.0, seed=seed)))

    alone = [await sampled(seed) for seed in range(4)]
    before = torch.get_rng_state()
    together = await asyncio.gather(*(sampled(seed) for seed in range(4)))
    assert together == alone
    assert torch.equal(torch.get_rng_state(), before)


async def test_outputs_of_one_call_use_seeds_in_a_row(random_model: TransformersBackend) -> None:
    both = await collect(random_model, 10, n=2, sampling=Sampling(temperature=1.0, seed=7))
    second = await collect(random_model, 10, sampling=Sampling(temperature=1.0, seed=8))
    assert text(both, 1) == text(second)


async def test_temperature_zero_and_no_temperature_are_greedy_here(random_model: TransformersBackend) -> None:
    ids = [
        [chunk.token_ids for chunk in await collect(random_model, sampling=sampling)]
        for sampling in (Sampling(), Sampling(temperature=0.0, seed=1), Sampling(top_k=1, temperature=3.0))
    ]
    assert ids[0] == ids[1] == ids[2]


async def test_the_models_own_sampling_options_are_the_default(tmp_path: Path) -> None:
    folder = tiny_model.random_weights(tmp_path / "sampling")
    file = folder / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "do_sample": True, "temperature": 1.5, "top_k": 3}))
    backend = TransformersBackend(str(folder), dtype="float32")
    own = await collect(backend, sampling=Sampling(seed=5))
    same = await collect(backend, sampling=Sampling(seed=5, temperature=1.5, top_k=3))
    assert [chunk.token_ids for chunk in own] == [chunk.token_ids for chunk in same]
    greedy = [(await collect(backend, sampling=Sampling(temperature=0)))[0].token_ids for _ in range(2)]
    assert greedy[0] == greedy[1]
    await backend.aclose()


async def test_draws_follow_the_softmax(recite: Any) -> None:
    # Every logit is 0 but one of ln 258 at temperature 1 / ln 258: that token has half of the probability.
    backend = recite("A")
    loaded = await asyncio.to_thread(load, Path(backend.model), dtype="float32", device=None)
    size = loaded.tokenizer.get_vocab_size()
    peak = loaded.model(torch.tensor([[10]])).logits[0, -1].max().item()
    temperature = peak / torch.log(torch.tensor(size - 1.0)).item()
    chunks = await collect(backend, 1, n=400, sampling=Sampling(temperature=temperature, seed=0))
    counts = Counter(chunk.token_ids for chunk in chunks)
    assert 160 < counts.most_common(1)[0][1] < 240
    assert len(counts) > 100


@pytest.mark.parametrize(
    "sampling",
    [Sampling(temperature=1.0, top_p=0.4), Sampling(temperature=1.0, top_k=1), Sampling(temperature=1.0, min_p=0.9)],
)
async def test_top_p_top_k_and_min_p_cut_the_tail(recite: Any, sampling: Sampling) -> None:
    chunks = await collect(
        recite("A"), 1, n=20, sampling=Sampling(seed=0).over(sampling).over(Sampling(temperature=4.0))
    )
    assert {text(chunks, index) for index in range(20)} == {"A"}


async def test_logprobs_are_those_of_the_model_before_temperature(recite: Any) -> None:
    backend = recite("A", "B")
    plain, hot = [
        await collect(backend, 1, sampling=Sampling(temperature=temperature, seed=0, logprobs=2, top_k=1))
        for temperature in (0.0, 5.0)
    ]
    (record,) = plain[0].logprobs
    assert hot[0].logprobs == plain[0].logprobs
    assert record.token == "A"
    assert record.top[0] == ("A", pytest.approx(record.logprob))
    assert len(record.top) == 2
    assert record.logprob < 0


async def test_no_logprobs_unless_asked_and_none_besides_the_chosen_with_zero(recite: Any) -> None:
    backend = recite("A")
    assert all(chunk.logprobs == () for chunk in await collect(backend))
    assert (await collect(backend, sampling=Sampling(logprobs=0)))[0].logprobs[0].top == ()


# Refusals and failures


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ({"sampling": Sampling(extra_body={"x": 1})}, "extra_body is for servers"),
        ({"tools": ({"type": "function"},)}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": (Message("user", (ImagePart("https://example.com/a.png"),)),)}, "images"),
    ],
)
async def test_what_it_cannot_do_is_rejected_before_anything_is_loaded(call: dict[str, Any], reason: str) -> None:
    with pytest.raises(Rejected, match=reason):
        await collect(TransformersBackend("/no/such/folder"), **call)


async def test_a_prompt_that_does_not_fit_says_by_how_much(tmp_path: Path) -> None:
    backend = TransformersBackend(str(tiny_model.recite(tmp_path / "short", ["A"], context_tokens=40)))
    with pytest.raises(ContextOverflow) as caught:
        await collect(backend, 15)
    assert (caught.value.needed_tokens, caught.value.context_tokens) == (41, 40)
    await backend.aclose()


async def test_a_failure_part_way_keeps_the_text_and_tells_no_prompt(
    recite: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = recite("One", " two", " three")
    loaded = await asyncio.to_thread(load, Path(backend.model), dtype="float32", device=None)
    forward, calls = loaded.model.forward, iter(range(10))

    def fails(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == 2:
            raise RuntimeError("cannot multiply 'the secret prompt'")
        return forward(*args, **kwargs)

    monkeypatch.setattr(loaded.model, "forward", fails)
    with pytest.raises(StreamBroken, match="RuntimeError") as caught:
        await collect(backend)
    assert caught.value.partial == "One two"
    assert caught.value.usage is not None
    assert caught.value.usage.output_tokens == 2
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)
async def test_out_of_memory_says_what_to_do(recite: Any, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    backend = recite("One")
    loaded = await asyncio.to_thread(load, Path(backend.model), dtype="float32", device=None)

    def fails(*_args: Any, **_kwargs: Any) -> Any:
        raise error

    monkeypatch.setattr(loaded.model, "forward", fails)
    with pytest.raises(BackendError, match="out of memory; lower") as caught:
        await collect(backend)
    assert caught.value.__cause__ is error


async def test_a_broken_folder_is_refused_before_it_is_loaded(random_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no model folder"):
        await TransformersBackend(str(tmp_path / "missing")).connect()
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text("{}")
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ConfigError, match="pickled"):
        await TransformersBackend(str(tmp_path / "pickled")).connect()


async def test_weights_that_do_not_fit_their_configuration_are_a_backend_error(tmp_path: Path) -> None:
    folder = tiny_model.random_weights(tmp_path / "wrong")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "no-such-type"}))
    with pytest.raises(BackendError, match="cannot be loaded"):
        await TransformersBackend(str(folder)).connect()


# Lifetimes


def forwards(backend: TransformersBackend) -> Counter[str]:
    """Counts the forward passes of a loaded model from now on."""
    assert backend._loaded is not None
    seen: Counter[str] = Counter()
    backend._loaded.model.register_forward_hook(lambda *_: seen.update(["forward"]))
    return seen


async def test_closing_the_stream_stops_the_model(recite: Any) -> None:
    backend = recite("A", "B", "C", end=False, context_tokens=200_000)
    await backend.connect()
    seen = forwards(backend)
    async with aclosing(backend.stream(Call(max_tokens=100_000, messages=QUESTION))) as stream:
        async for _chunk in stream:
            break
    after = seen["forward"]
    assert after < 10_000
    assert len(await collect(backend, 5)) == 5
    assert seen["forward"] == after + 5


async def test_cancelling_the_task_stops_the_model(recite: Any) -> None:
    backend = recite("A", "B", "C", end=False, context_tokens=200_000)
    await backend.connect()
    seen, first = forwards(backend), asyncio.Event()

    async def read() -> None:
        async for _chunk in backend.stream(Call(max_tokens=100_000, messages=QUESTION)):
            first.set()

    task = asyncio.create_task(read())
    await first.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    after = seen["forward"]
    assert len(await collect(backend, 5)) == 5
    assert seen["forward"] == after + 5


async def test_a_second_cancellation_still_waits_for_the_worker(recite: Any) -> None:
    backend = recite("A", "B", "C", end=False, context_tokens=200_000)
    await backend.connect()
    first = asyncio.Event()

    async def read() -> None:
        async for _chunk in backend.stream(Call(max_tokens=100_000, messages=QUESTION)):
            first.set()

    task = asyncio.create_task(read())
    await first.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert backend._running == {}


async def test_a_long_prompt_can_be_stopped_before_its_first_token(tmp_path: Path) -> None:
    folder = tiny_model.random_weights(tmp_path / "deep", layers=4)
    backend = TransformersBackend(str(folder), dtype="float32")
    await backend.connect()
    assert backend._loaded is not None
    entered, leave = threading.Event(), threading.Event()
    layers = backend._loaded.model.model.layers
    seen: list[int] = []
    for at, layer in enumerate(layers):
        layer.register_forward_hook(lambda *_, at=at: seen.append(at))
    layers[0].register_forward_hook(lambda *_: (entered.set(), leave.wait(), None)[2])
    task = asyncio.create_task(collect(backend, 5))
    await asyncio.to_thread(entered.wait)
    task.cancel()
    await asyncio.sleep(0)
    leave.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == [0]
    await backend.aclose()


async def test_aclose_ends_running_streams_and_leaves_no_thread(recite: Any) -> None:
    backend = recite("A", "B", "C", end=False, context_tokens=200_000)
    await backend.connect()
    first = asyncio.Event()

    async def read() -> None:
        async for _chunk in backend.stream(Call(max_tokens=100_000, messages=QUESTION)):
            first.set()

    task = asyncio.create_task(read())
    await first.wait()
    assert workers() != []
    await backend.aclose()
    await backend.aclose()
    assert workers() == []
    with pytest.raises(StreamBroken, match="closed"):
        await task


async def test_calls_that_wait_for_a_worker_can_be_cancelled(recite: Any) -> None:
    backend = recite("A", "B", "C", end=False, context_tokens=200_000)
    await backend.connect()
    tasks = [asyncio.create_task(collect(backend, 100_000)) for _ in range(7)]
    await asyncio.sleep(0)
    for task in reversed(tasks):
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ended)
    await backend.aclose()
    assert workers() == []


async def test_the_event_loop_is_never_blocked(random_folder: Path) -> None:
    backend = TransformersBackend(str(random_folder), dtype="bfloat16")
    with blockbuster.blockbuster_ctx():
        await backend.connect()
        await backend.count_tokens(QUESTION)
        await backend.tokenizer()
        await asyncio.gather(*(collect(backend, 10) for _ in range(3)))
        async with aclosing(backend.stream(Call(max_tokens=50, messages=QUESTION))) as stream:
            async for _chunk in stream:
                break
        await backend.aclose()


# The real model


@pytest.fixture(scope="session")
def embedded_folder() -> Path:
    return models.embedded()


@pytest.fixture
async def embedded(embedded_folder: Path) -> AsyncIterator[TransformersBackend]:
    backend = connect("embedded", {})
    yield backend
    await backend.aclose()


@pytest.mark.model
async def test_the_embedded_model_knows_the_capital_of_france(embedded: TransformersBackend) -> None:
    chunks = await collect(embedded, 32, messages=(Message("user", "What is the capital of France?"),))
    assert "Paris" in text(chunks)
    assert chunks[-1].finish_reason == "stop"
    assert (await embedded.connect()).context_tokens == 8192


@pytest.mark.model
async def test_the_embedded_model_samples_reproducibly_in_concurrent_calls(
    embedded: TransformersBackend,
) -> None:
    async def story(seed: int) -> str:
        message = Message("user", "Tell me a story.")
        sampling = Sampling(temperature=0.9, top_p=0.95, seed=seed)
        return text(await collect(embedded, 12, messages=(message,), sampling=sampling))

    first, other, again = await asyncio.gather(story(1), story(2), story(1))
    assert first == again
    assert first != other


@pytest.mark.model
async def test_greedy_text_is_that_of_plain_transformers(embedded: TransformersBackend) -> None:
    question = (Message("user", "Name three colours."),)
    ours = [chunk.token_ids[0] for chunk in await collect(embedded, 24, messages=question)]
    assert embedded._loaded is not None
    prompt = embedded._loaded.renderer.chat_ids(question)
    ids = torch.tensor([prompt])

    def plain() -> list[int]:
        output = embedded._loaded.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24)
        return list(output[0, len(prompt) :].tolist())

    assert ours == await asyncio.to_thread(plain)


async def test_a_window_smaller_than_the_models_own_can_be_set(random_folder: Path) -> None:
    backend = connect(str(random_folder), {"context_tokens": 64, "boundary": "local"})
    assert (await backend.connect()).context_tokens == 64
    await backend.aclose()
    with pytest.raises(ConfigError, match="at 'local', not at 'eu'"):
        connect("embedded", {"boundary": "eu"})
