"""A pair behind ``litellm.completion``, on scripted models: whole, as a stream, and what it cost."""

import os

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # the price list that LiteLLM brings along

import litellm
from duet_litellm import DuetProvider, register

from duet_sdk import AsyncDuetClient

QUESTION = [{"role": "user", "content": "How many primes are below 60?"}]

register(DuetProvider({"primes": AsyncDuetClient("scripted/17, by sieving to 60", "scripted/There are 17 of them.")}))
answer = litellm.completion("duet/primes", QUESTION, duet={"budget": {"signal_tokens": 64}})
message = answer.choices[0].message
print(f"signal:  {message.reasoning_content}")
print(f"answer:  {message.content}")
print(f"served:  {message.provider_specific_fields['duet']['served_by']}")
usage = answer.usage
print(f"written: {usage.completion_tokens} tokens, {usage.completion_tokens_details.reasoning_tokens} by the reasoner")

for chunk in litellm.completion("duet/primes", QUESTION, stream=True):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
