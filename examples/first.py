"""A first program, the same as in the README; its models are scripted, so it needs no download."""

from duet_sdk import Budget, DuetClient

with DuetClient(reasoner="scripted/17, by sieving to 60", generator="scripted/There are 17 of them.") as duet:
    reply = duet.chat("How many primes are below 60?", budget=Budget(signal_tokens=64))

print(reply.text)  # There are 17 of them.
print(reply.signal.text)  # 17, by sieving to 60
print(reply.signal.tokens, "of", reply.signal.limit)  # 5 of 64
print(reply.served_by)  # pair
