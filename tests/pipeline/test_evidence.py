"""Servers that obey, or do not, in many ways: nobody is cut or accused for our guesses, nobody is believed against text."""

import asyncio
import json
import math
from dataclasses import replace

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from support.raw_server import answering, piece, whole

from duet_sdk import AsyncDuetClient, Budget
from duet_sdk.backends import Chunk
from duet_sdk.backends.scripted import Scripted
from duet_sdk.endpoints import Endpoint
from duet_sdk.events import ToolCallDelta
from duet_sdk.pipeline.counting import Counter
from duet_sdk.policies import Retry
from duet_sdk.reply import StageUsage
from duet_sdk.types import TokenLogprob

# Texts as tokenizers of real models cut them: words and parts of words, code, scripts of two and three bytes a letter,
# characters in several tokens, runs of spaces.
TOKENS = {
    "words": [" the", " answer", " is", " seventeen", " primes", ".", " and", " so", " we", " count", " them"],
    "long words": [" internationalization", " responsibilities", " Donaudampfschifffahrt", " straightforward"],
    "code": [" =", "(", "x", ")", "[", "i", "]", ";", "\n", "    ", "def", " f", "_", "0", "1", "+=", "{", "}"],
    "spaces": ["\n", " " * 40, "x", "\t" * 8, "─" * 10, "=" * 30],
    "Russian": [" ответ", " семнадцать", " простых", " числа", "ми", ",", " потому"],
    "Hindi": [" उत्तर", " सत्रह", " अभाज्य", " संख्याएँ", "।"],
    "Chinese": ["答案", "是", "十七", "个", "质数", "。", "因为我们", "数了"],
    "bytes": ["é", "ß", "🙂", "e", "ü"],
    "one word": ["a", "b", "c", "d"],
}
WRITTEN = st.sampled_from(sorted(TOKENS)).flatmap(lambda kind: st.lists(st.sampled_from(TOKENS[kind]), max_size=80))


class Server(Scripted):
    """Writes tokens of its own, and says of them what it is told to."""

    def __init__(self, tokens, *, obeys, pieces, usage, evidence="none", end="right", hidden=0):
        super().__init__(model="odd")
        self.tokens, self.obeys, self.pieces, self.usage = tokens, obeys, pieces, usage
        self.evidence, self.end, self.hidden = evidence, end, hidden

    async def stream(self, call):
        self.calls.append(call)
        room = call.max_tokens - min(self.hidden, call.max_tokens - 1)
        billed = 0
        for index in range(call.n):
            said = self.tokens[:room] if self.obeys else self.tokens
            before, billed = billed, billed + len(said) + (self.hidden if said else 0)
            finish = "length" if len(said) < len(self.tokens) else "stop"
            if call.whole and call.n == 1:
                usage = None if self.usage == "none" else StageUsage(10, billed)
                yield Chunk("".join(said), usage=usage, finish_reason=finish, last=True)
                return
            for chunk in self._chunks(said, index, before):
                await asyncio.sleep(0)
                yield chunk
            yield Chunk(finish_reason=finish, index=index)
        if self.usage != "none":
            yield Chunk(usage=StageUsage(10, billed))

    def _chunks(self, said, index, before):
        if self.pieces == "letters":
            for letter in "".join(said):
                yield Chunk(letter, index=index)
            return
        size = max(1, len(said)) if self.pieces == "all" else self.pieces
        for at in range(0, len(said), size):
            piece = said[at : at + size]
            text, count = "".join(piece), at + len(piece)
            usage = None
            if self.usage == "running":
                usage = StageUsage(10, before + self.hidden + count)
            elif self.usage == "lagging":
                usage = StageUsage(10, before + self.hidden + at)
            elif self.usage == "zeros":
                usage = StageUsage(10, 0)
            yield Chunk(
                text,
                token_ids=tuple(range(len(piece))) if self.evidence == "token_ids" else (),
                logprobs=tuple(TokenLogprob(t, -1.0) for t in piece) if self.evidence == "logprobs" else (),
                usage=usage,
                index=index,
            )


async def ask(server, stage, limit, *, n=1, stream=False):
    budget = Budget(signal_tokens=limit) if stage == "signal" else Budget(answer_tokens=limit)
    reasoner, generator = (server, "scripted/ok") if stage == "signal" else ("scripted/plan", server)
    async with AsyncDuetClient(reasoner, generator, on_cut="keep", retry=Retry(attempts=1)) as duet:
        options = {"budget": budget, "n": n, "mode": "duet" if stage == "signal" else "generator"}
        if not stream:
            return await duet.chat("q", **options)
        async with duet.stream("q", **options) as run:
            async for _ in run:
                pass
        return run.reply


def estimated(text):
    return max(len(text.split()), math.ceil(len(text.encode()) / 4))


STYLES = {
    "usage": st.sampled_from(["none", "last", "running", "lagging", "zeros"]),
    "pieces": st.sampled_from(["letters", "all", 1, 3]),
    "evidence": st.sampled_from(["none", "none", "token_ids", "logprobs"]),
    "stage": st.sampled_from(["signal", "answer"]),
    "stream": st.booleans(),
    "limit": st.integers(1, 60),
    "n": st.integers(1, 3),
    "tokens": WRITTEN,
}


@given(**STYLES, hidden=st.sampled_from([0, 0, 5]))
@example(  # what every server but vLLM does: ends at the limit, and says its usage last
    tokens=TOKENS["Russian"] * 11, usage="last", pieces=1, evidence="none", stage="signal", stream=False, limit=60,
    n=1, hidden=0,
)  # fmt: skip
@settings(max_examples=250, deadline=None)
def test_a_server_that_obeys_is_neither_cut_nor_accused(
    tokens, usage, pieces, evidence, stage, stream, limit, n, hidden
):
    n, hidden = (n if stage == "answer" else 1), min(hidden, limit - 1)
    assume(stage == "signal" or "".join(tokens[: limit - hidden]).strip())  # else it is asked again
    server = Server(tokens, obeys=True, pieces=pieces, usage=usage, evidence=evidence, hidden=hidden)
    reply = asyncio.run(ask(server, stage, limit, n=n, stream=stream))
    text = "".join(tokens[: limit - hidden])
    attempt = next(one for one in reply.receipt.attempts if one.model == "scripted/odd")
    if stage == "signal":
        assert reply.signal.text == text.strip()
        assert reply.signal.honoured
        assert reply.signal.tokens <= limit
    else:
        assert reply.answers == (text,) * n
    assert attempt.honoured
    assert attempt.usage.output_tokens <= limit * n
    assert attempt.truncated == (len(tokens) > limit - hidden)
    if usage in ("last", "running") and text:
        assert attempt.usage.output_tokens == (min(len(tokens), limit - hidden) + hidden) * n


@given(**STYLES)
@settings(max_examples=250, deadline=None)
def test_a_server_that_does_not_obey_gets_no_more_than_the_limit_kept(
    tokens, usage, pieces, evidence, stage, stream, limit, n
):
    n = n if stage == "answer" else 1
    assume(stage == "signal" or (tokens and tokens[0].strip()))
    server = Server(tokens, obeys=False, pieces=pieces, usage=usage, evidence=evidence)
    reply = asyncio.run(ask(server, stage, limit, n=n, stream=stream))
    attempt = next(one for one in reply.receipt.attempts if one.model == "scripted/odd")
    text, words = "".join(tokens), len("".join(tokens).split())
    kept = [reply.signal.text] if stage == "signal" else reply.answers
    told = usage != "none" and len(tokens) > limit
    by_words = words > limit or len(text.encode()) > 32 * (limit + 1)
    for one in kept:
        assert text.strip().startswith(one.strip())
        if (told and n == 1) or by_words:
            assert _is_within(one, tokens, limit, spare=2 if pieces == 3 else 0)
    if (told and n == 1) or by_words:
        assert not attempt.honoured
        assert attempt.usage.output_tokens > limit
    if evidence != "none" and pieces in (1, 3) and len(tokens) > limit and not (stage == "answer" and not stream):
        assert all(_tokens_of(one, tokens) <= limit + pieces - 1 for one in kept)
        assert not attempt.honoured


def _is_within(kept, tokens, limit, spare):
    """Whether a text is within the limit by estimate or by its tokens, or is the share that fits of one piece."""
    share = len("".join(tokens)) * limit / len(tokens)
    return min(estimated(kept.strip()), _tokens_of(kept, tokens) - spare) <= limit or len(kept) <= share


def _tokens_of(text, tokens):
    """How many of these tokens begin within that text."""
    left, count, begun = len(text.strip()), 0, False
    for token in tokens:
        shown = token if begun else token.lstrip()
        begun = begun or bool(shown)
        if left <= 0:
            break
        left, count = left - len(shown), count + 1
    return count


PIECES = ["one ", "two", "\n", "   ", "五", "🙂", "ответ ", "x" * 40, "", "\ud800", "é"]
USAGES = st.builds(StageUsage, st.sampled_from([0, 5, -1, 10**12]), st.sampled_from([0, 1, 5, 30, 64, 65, -5, 10**30]))
CHUNKS = st.builds(
    Chunk,
    st.lists(st.sampled_from(PIECES), max_size=6).map("".join),
    st.sampled_from(["", "", "thought so "]),
    st.sampled_from([0, 0, 1, 2, 5, 100]).map(lambda count: tuple(range(count))),
    st.sampled_from([(), (), (TokenLogprob("one", -1.0),) * 2]),
    st.sampled_from([(), (), (), (ToolCallDelta(0, "a", "f", "{}", 0),)]),
    st.one_of(st.none(), st.none(), USAGES),
    finish_reason=st.sampled_from([None] * 6 + ["stop", "length"]),
    index=st.integers(0, 2),
)


@given(
    chunks=st.lists(CHUNKS, max_size=25),
    limit=st.sampled_from([1, 2, 5, 20, 64]),
    outputs=st.integers(1, 3),
    count_text=st.sampled_from([None, lambda text: math.ceil(len(text) / 3)]),
    in_time=st.booleans(),
)
@settings(max_examples=500, deadline=None)
def test_no_contradiction_makes_a_count_fail(chunks, limit, outputs, count_text, in_time):
    counter = Counter(limit, outputs, count_text, lambda: 0.0)
    written, kept = [0] * 3, [0] * 3
    for chunk in chunks:
        chunk.index %= outputs
        written[chunk.index] += len(chunk.text)
    for chunk in chunks:
        for one in counter.take([replace(chunk)]):
            kept[one.index] += len(one.text)
    counter.end() if in_time else counter.cut_short()
    for one in counter.take(()):
        kept[one.index] += len(one.text)
    assert all(have <= most for have, most in zip(kept, written, strict=True))
    assert not counter.holds_back
    assert counter.usage(3).output_tokens == counter.tokens >= 0
    assert counter.honours(counter.tokens) <= (not counter.overflowed)


# What is not believed


def take(*chunks, limit=64, outputs=1, count_text=None):
    counter = Counter(limit, outputs, count_text, lambda: 0.0)
    kept = [one for chunk in chunks for one in counter.take([chunk])]
    counter.end()
    kept += counter.take(())
    return counter, "".join(chunk.text for chunk in kept if chunk.index == 0)


WORDS = "word " * 4000


@pytest.mark.parametrize(
    "chunks",
    [
        [Chunk(WORDS, token_ids=(5,)), Chunk(finish_reason="stop")],
        [Chunk(WORDS, token_ids=(5,), finish_reason="stop")],
        [Chunk(WORDS, logprobs=(TokenLogprob(WORDS, -1.0),), finish_reason="stop")],
        [Chunk(WORDS, logprobs=(TokenLogprob("word", -1.0),) * 9, finish_reason="stop")],
        [Chunk(WORDS, usage=StageUsage(1, 3), finish_reason="stop")],
        [Chunk(reasoning=WORDS, token_ids=(5,), finish_reason="stop")],
        [Chunk("x" * 20_000, token_ids=(5,), finish_reason="stop")],
        [Chunk("好" * 9_000, token_ids=(5, 6), finish_reason="stop")],
        [*[Chunk("ten words in one piece with one id for all ", token_ids=(7,))] * 400, Chunk(finish_reason="stop")],
        [
            *[Chunk("ten words that a usage counts as one of them ", usage=StageUsage(1, n)) for n in range(1, 400)],
            Chunk(finish_reason="stop"),
        ],
        [*[Chunk("word ", usage=StageUsage(1, 1))] * 400, Chunk(usage=StageUsage(1, 1), finish_reason="stop")],
    ],
)
def test_evidence_is_not_believed_against_the_text_that_came_with_it(chunks):
    counter, text = take(*chunks)
    assert estimated(text) <= 64
    assert counter.overflowed
    assert not counter.honours(counter.tokens)
    assert counter.tokens > 64


@pytest.mark.parametrize("count", [100, 5000])
def test_ids_without_text_beyond_the_limit_are_an_overflow(count):
    counter, text = take(Chunk("one two", token_ids=(1, 2)), Chunk(token_ids=tuple(range(count))))
    assert text == "one two"
    assert (counter.overflowed, counter.stopped, counter.tokens) == (True, True, count + 2)


@pytest.mark.parametrize("limit", [64, 3])
def test_ids_of_the_prompt_or_of_all_once_more_are_not_counted(limit):
    counter, text = take(
        Chunk(token_ids=tuple(range(500))),
        Chunk("one", token_ids=(1,)),
        Chunk(" two", token_ids=(2,)),
        Chunk(" three", token_ids=(3,)),
        Chunk(token_ids=(1, 2, 3) * 22, finish_reason="stop"),
        limit=limit,
    )
    assert (text, counter.tokens, counter.finish_reasons) == ("one two three", 3, ("stop",))
    assert counter.honours(3)


@pytest.mark.parametrize(("first", "last"), [(500, 1), (1, 66)])
def test_ids_that_the_text_beside_them_cannot_have_are_those_of_the_prompt_or_of_all(first, last):
    chunks = [Chunk("one", token_ids=(1,) * first), Chunk(" two", token_ids=(2,))]
    counter, text = take(*chunks, Chunk(" three", token_ids=(3,) * last, finish_reason="stop"), limit=16)
    assert (text, counter.finish_reasons) == ("one two three", ("stop",))
    assert counter.honours(counter.tokens)
    assert counter.tokens < 8


def test_a_stream_of_ids_without_text_is_cut_at_its_limit():
    counter, _ = take(*[Chunk(token_ids=(1,))] * 100)
    assert (counter.overflowed, counter.stopped, counter.tokens) == (True, True, 65)


def test_a_token_may_hold_a_long_run_of_spaces_or_a_long_word():
    pieces = [" " * 128, "x", "internationalization", "─" * 20, "=" * 80]
    counter, text = take(
        *[Chunk(piece, token_ids=(1,)) for piece in pieces * 12], Chunk(finish_reason="stop"), limit=60
    )
    assert text == "".join(pieces * 12)
    assert counter.honours(counter.tokens)
    assert not counter.overflowed


def test_a_usage_that_stands_at_nothing_is_none():
    counter, text = take(Chunk("one two three four", finish_reason="stop"), Chunk(usage=StageUsage(10, 0)))
    assert text == "one two three four"
    assert (counter.tokens, counter.counted_by, counter.usage(10).estimated) == (5, "estimate", True)


def test_a_prompt_of_nothing_is_a_placeholder():
    counter, _ = take(Chunk("one", finish_reason="stop"), Chunk(usage=StageUsage(0, 1)))
    assert counter.usage(12) == StageUsage(12, 1, estimated=True)


def test_a_bill_for_hidden_thinking_takes_nothing_from_the_text():
    counter, text = take(Chunk("17, by sieve", usage=StageUsage(10, 900), finish_reason="stop"), limit=16)
    assert text == "17, by sieve"
    assert (counter.tokens, counter.honours(900), counter.finish_reasons) == (900, False, ("stop",))


def test_thinking_that_is_billed_beside_the_limit_takes_nothing_from_a_text_within_it():
    usage = StageUsage(10, 564, reasoning_tokens=500)
    counter, text = take(Chunk("word " * 64, usage=usage, finish_reason="length"), limit=64)
    assert text == "word " * 64
    assert (counter.tokens, counter.honours(564), counter.finish_reasons) == (564, False, ("length",))


def test_a_server_without_a_usage_that_ends_at_its_limit_is_billed_at_most_the_limit():
    counter, text = take(*[Chunk("семнадцать ")] * 40, Chunk(finish_reason="length"), limit=64)
    assert text == "семнадцать " * 40
    assert (counter.tokens, counter.counted_by, counter.honours(64)) == (64, "estimate", True)


# The model's own tokenizer


def by_three(text):
    """A tokenizer of three letters a token, which a piece of another size starts anew."""
    return math.ceil(len(text) / 3)


def test_a_tokenizer_is_not_misled_by_pieces_that_are_no_tokens():
    text = "abcdefghi" * 20  # 60 tokens
    counter, kept = take(*map(Chunk, text), Chunk(finish_reason="length"), limit=60, count_text=by_three)
    assert kept == text
    assert counter.honours(counter.tokens)


def test_a_tokenizer_cuts_what_goes_beyond_the_limit_by_its_own_count():
    counter, kept = take(*[Chunk("abc")] * 400, Chunk(finish_reason="stop"), limit=60, count_text=by_three)
    assert kept == "abc" * 60
    assert (counter.overflowed, counter.counted_by) == (True, "tokenizer")
    assert counter.tokens < 70  # and soon


@pytest.fixture(params=["with a template", "without"])
def tokenizer(request, tmp_path):
    words = {"?": 0, "one": 1, "two": 2, "three": 3, ".": 4}
    model = {
        "version": "1.0",
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "?"},
        "pre_tokenizer": {"type": "Whitespace"},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(model))
    if request.param != "without":
        (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    return str(tmp_path)


@pytest.mark.parametrize("stage", ["signal", "answer"])
async def test_the_tokenizer_of_an_endpoint_counts_signals_and_answers(tokenizer, stage):
    def answer(body):
        said = ["one", " two", " thr", "ee."] * 10
        return [*map(piece, said), piece("", "stop")] if body.get("stream") else whole("".join(said))

    async with answering(answer) as url:
        server = Endpoint(model="vllm/m", base_url=url, options={"tokenizer": tokenizer})
        if stage == "signal":
            async with AsyncDuetClient(server, "scripted/ok") as duet:
                signal = (await duet.chat("q", budget=Budget(signal_tokens=64))).signal
            assert signal.counted_by == "tokenizer"
            assert signal.honoured
        else:
            async with AsyncDuetClient("scripted/17", server) as duet:
                attempt = (await duet.chat("q", budget=Budget(answer_tokens=64))).receipt.attempts[-1]
            assert attempt.usage.output_tokens == 40
            assert attempt.honoured
