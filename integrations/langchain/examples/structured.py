"""An answer as an instance of a class, from a generator that gets the form wrong at first. Scripted, no server."""

from langchain_duet import ChatDuet
from pydantic import BaseModel

from duet_sdk import Budget
from duet_sdk.backends.scripted import Scripted


class City(BaseModel):
    """A city."""

    name: str
    people: int


generator = Scripted("It is Paris.", '{"name": "Paris", "people": 2100000}')
model = ChatDuet(reasoner=Scripted("Paris"), generator=generator, budget=Budget(signal_tokens=64))
both = model.with_structured_output(City, include_raw=True).invoke("What is the largest city of France?")
print(both["parsed"])
print(both["raw"].usage_metadata)
