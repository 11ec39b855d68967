"""A gate of your own: ask the reasoner only where the question looks hard, on scripted models."""

import re

from duet_sdk import DuetClient
from duet_sdk.reply import GateDecision
from duet_sdk.request import Request


class LooksHard:
    """Asks the reasoner where a question counts, compares, proves or is long."""

    name = "looks_hard"

    def __init__(self, *, threshold: float = 1.0) -> None:
        self.threshold = threshold

    async def decide(self, request: Request) -> GateDecision:
        """Score the last user message; no model is called, so that a decision costs nothing."""
        question = next(message.text for message in reversed(request.messages) if message.role == "user")
        found = re.findall(r"\b(how many|compare|prove|why|step by step)\b", question, re.IGNORECASE)
        score = len(found) + len(question.split()) / 50
        return GateDecision(
            ask=score >= self.threshold,
            policy=self.name,
            score=score,
            threshold=self.threshold,
            reason=", ".join(found).lower() or "no sign of difficulty",
        )


QUESTIONS = ("How many primes are below 60?", "Say hello.", "Compare a heap with a sorted list, step by step.")

with DuetClient("scripted/a short plan", "scripted/an answer", gate=LooksHard()) as duet:
    for question in QUESTIONS:
        reply = duet.chat(question)
        if (decision := reply.gate) is not None:
            print(f"{reply.served_by:10} {decision.score:.2f}  {question}  ({decision.reason})")

    # A request can take another gate than the client's, by name too.
    assert duet.chat(QUESTIONS[0], gate="never").served_by == "generator"
