"""Gates that let the generator try, and probes, as they stand in a trace."""

from pipeline.scenes import DOUBT, answering

from duet_sdk import AsyncDuetClient
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.gate import Race
from duet_sdk.policies import Progressive


async def test_a_race_has_one_gate_and_a_span_for_each_side(spans):
    reasoner = Scripted(Script("a b c d", token_ids=True, stall_after=1))
    async with AsyncDuetClient(reasoner, answering(), gate=Race(first_tokens=4)) as duet:
        await duet.chat("q")
    assert spans.gate.attributes["duet.gate.policy"] == "race"
    assert spans.gate.attributes["duet.gate.decision"] == "skip"
    assert spans.gate.attributes["duet.gate.threshold"] == 0.2
    assert len(spans.attempts) == 2


async def test_probes_have_spans_of_their_own_and_no_gate(spans):
    big = Scripted(Script("One is it. Two is it. Three is it.", token_s=0.01))
    options = Progressive(slice_tokens=4, probe_tokens=1, share=1.0)
    async with AsyncDuetClient(big, answering(guided=DOUBT), progressive=options) as duet:
        reply = await duet.chat("q")
    assert spans.gate.attributes["duet.gate.policy"] == "always"
    assert len(spans.attempts) == len(reply.receipt.attempts) > 2
