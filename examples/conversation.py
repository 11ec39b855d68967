"""A conversation: history without signals, and what each stage sees of it, on scripted models."""

from duet_sdk import DuetClient, SignalDone
from duet_sdk.backends.scripted import Scripted
from duet_sdk.context import LastTurns

reasoner = Scripted("17, by sieve", "59", "41")
generator = Scripted("There are 17.", "The largest is 59.", "Before 43 comes 41.")

# The reasoner sees the last two questions, the generator the whole conversation.
with DuetClient(reasoner, generator, context=LastTurns(2, stages=("reasoner",))) as duet:
    talk = duet.conversation(system="Be brief.")
    for question in ("How many primes are below 60?", "Which is the largest?", "And the one before 43?"):
        reply = talk.chat(question)
        print(f"{question}\n  signal: {reply.signal.text}\n  answer: {reply.text}")

    with talk.stream("One more, but nobody waits for it.") as run:
        for event in run:
            if isinstance(event, SignalDone):
                break  # left before the answer: the turn is not kept

print("\nkept, without signals:")
for message in talk.messages:
    print(f"  {message.role:10} {message.text}")

questions = [[m.text for m in call.messages if m.role == "user"] for call in reasoner.calls]
print(f"\nquestions that the reasoner saw: {[len(seen) for seen in questions]}")
