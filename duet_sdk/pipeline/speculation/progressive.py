"""While the reasoner writes, the generator probes what there is of the signal; the reasoner stops once it suffices.

This is marginal utility at serving time: the next slice of the signal is bought only as long as the generator, with
the slices it has, is not sure enough to do without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from duet_sdk.errors import BackendError
from duet_sdk.events import Event, FellBack, Retried, SignalDelta, SignalDone
from duet_sdk.gate import Confidence
from duet_sdk.pipeline.asking import Asking, Guidance
from duet_sdk.pipeline.flow import Flow
from duet_sdk.pipeline.signal_stage import SignalStage
from duet_sdk.pipeline.speculation.room import room_for_probe
from duet_sdk.pipeline.speculation.tasks import Beside, Work
from duet_sdk.pipeline.speculation.trial import Trial, check_logprobs
from duet_sdk.policies import Progressive
from duet_sdk.signal import Sentence


class ProgressiveStage:
    """The reasoner's stage with concurrent probes.

    Args:
        flow: the request.
        options: when to probe.
        is_judging: whether the beginning of another answer is being judged; no probe begins meanwhile.
    """

    def __init__(self, flow: Flow, options: Progressive, is_judging: Callable[[], bool]) -> None:
        self._flow = flow
        self._options = options
        self._is_judging = is_judging
        self._stage = SignalStage(flow)

    async def run(self) -> Guidance:
        """Ask for the signal; a probe that is sure goes on as the answer.

        Raises:
            ConfigError: the generator reports no logprobs; nothing was spent.
            DuetError: as the reasoner's stage.
        """
        try:
            await self._flow.in_time(check_logprobs(self._flow))
        except BackendError:  # the stages find out for themselves, and say so
            return await self._stage.run()
        if self._flow.chain("generator")[0].withholds_logprobs:
            return await self._stage.run()
        probing: _Probing | None = None
        try:
            async with Beside() as beside:
                probing = _Probing(self._flow, self._options, beside, self._is_judging)
                self._stage = probing.stage
                return await probing.run()
        except BaseException:
            if probing is not None:
                await probing.abandon()
            raise

    def not_needed(self) -> None:
        """No more of the signal is needed than there is."""
        self._stage.not_needed()


class _Probing:
    """What is known while the reasoner writes and the generator probes."""

    def __init__(self, flow: Flow, options: Progressive, beside: Beside, is_judging: Callable[[], bool]) -> None:
        self._flow = flow
        self._options = options
        self._beside = beside
        self._is_judging = is_judging
        self._gate = Confidence(options.threshold, options.probe_tokens, name="progressive")
        self.stage = SignalStage(flow, tell=self._tell)
        self._asking = beside.start(self.stage.run)
        self._trying: Work[None] | None = None
        self._probe: Trial | None = None
        self._is_void = False
        self._seen_tokens = 0
        self._next_at = options.slice_tokens
        self._left = options.most_probes
        self._tried = ""
        self._signalled: Guidance | None = None

    async def run(self) -> Guidance:
        """Until there is a signal, whole or as much of it as suffices.

        Raises:
            BaseException: what ended the reasoner's stage or a probe; the other has been stopped.
        """
        while True:
            work = await self._beside.next()
            if work is self._trying and self._is_void:
                await self.drop()
                found = self._signalled
            elif work.cancelled() or work.exception() is not None:
                await self._stop_asking(0)
                await self.drop()
                work.result()
                raise AssertionError("unreachable: the work was cancelled or failed")
            elif work is self._asking:
                found = await self._asked(work.result()())
            else:
                work.result()()
                found = await self._judged()
            if found is not None:
                return found

    def _tell(self, event: Event) -> None:
        """Pass an event on, and probe where the signal has grown by a slice."""
        match event:
            case SignalDelta():
                self._probe_if_due()
                if not self._flow.outbox.is_read:
                    return  # `chat` shows no deltas
            case Retried(discard=True) | FellBack():
                # What was written is void: so is a probe of it.
                if self._trying is not None:
                    self._is_void = True
                    self._trying.cancel()
                self._next_at, self._tried = self._options.slice_tokens, ""
        self._flow.tell(event)

    def _probe_if_due(self) -> None:
        asking, options = self.stage.asking, self._options
        # A reasoner that is being stopped may still write a little.
        busy = self._probe is not None or self._is_judging() or self._beside.is_over
        if asking is None or busy or not self._left or asking.tokens < self._next_at:
            return
        probes = options.most_probes - self._left + 1
        text = _usable(asking)
        if not text or text == self._tried or probes * options.probe_tokens > options.share * asking.tokens:
            return
        self._left -= 1
        self._tried, self._seen_tokens = text, asking.tokens
        self._next_at = asking.tokens + options.slice_tokens
        self._probe = Trial(self._flow, self._gate, Guidance(asking.model), signal=text)
        self._trying = self._beside.start(partial(self._judge, asking, self._probe))

    async def _judge(self, asking: Asking, probe: Trial) -> None:
        if await self._flow.in_time(room_for_probe(self._flow, asking)):
            await probe.judge()
        else:
            self._left = 0  # there will be less later

    async def _judged(self) -> Guidance | None:
        """A verdict is there."""
        probe = self._probe
        if probe is None:
            return None
        if not probe.runs or self._flow.chain("generator")[0].withholds_logprobs:
            self._left = 0  # a generator that fails, or cannot be judged, is not tried with every slice
        if not probe.runs or (probe.decision.ask and self._signalled is None):
            await self.drop()
            return self._signalled
        begun = probe.adopt()
        if self._signalled is not None:  # it was the whole signal after all
            return replace(self._signalled, begun=begun)
        asking = self.stage.asking
        await self._stop_asking(self._seen_tokens)
        self._hand_over(asking, probe.signal)
        return Guidance(asking.model if asking is not None else self._flow.parts.reasoners[0], begun=begun)

    def _hand_over(self, asking: Asking | None, text: str) -> None:
        """The signal is what the probe saw."""
        draft = self._flow.draft
        if asking is not None:
            draft.signal = replace(asking.signal(text), truncated=False)
            draft.handoff = asking.handoff.name
        draft.served_by = "pair"
        self._flow.tell(SignalDone(draft.signal, draft.handoff or "instruct"))

    async def _asked(self, guidance: Guidance) -> Guidance | None:
        """The reasoner is done, with a signal or without one."""
        self._signalled = guidance
        if self._probe is not None and self._probe.signal == self._flow.draft.signal.text:
            return None  # what is probed turned out to be the whole signal: its answer goes on
        await self.drop()
        return guidance

    async def drop(self) -> None:
        """Stop the probe that runs, if one does; harmless where it was adopted."""
        if self._trying is not None and self._probe is not None:
            await self._beside.stop(self._trying)
            await self._probe.drop()
            self._trying, self._probe, self._is_void = None, None, False

    async def abandon(self) -> None:
        """Settle whatever probe there is; the concurrent work has ended."""
        if self._probe is not None:
            await self._probe.abandon()

    async def _stop_asking(self, needed: int) -> None:
        """Stop the reasoner; of all that it wrote for this signal, ``needed`` tokens were of use."""
        self.stage.not_needed(needed)
        await self._beside.stop(self._asking)


def _usable(asking: Asking) -> str:
    """What there is of a signal, in the form in which it could be handed on."""
    text = asking.extractor.text
    return text if asking.handoff.name == "think" else Sentence().cut(text, limit=asking.limit)
