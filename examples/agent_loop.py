"""An agent that counts with two tools: one plan for the whole run, a second one when a tool fails; scripted models."""

import json

from duet_sdk import DuetClient, Message, RunScope, ToolCall
from duet_sdk.backends.scripted import Script, Scripted


def tool(name: str, parameter: str) -> dict[str, object]:
    """A function in OpenAI form with one text as parameter."""
    schema = {"type": "object", "properties": {parameter: {"type": "string"}}, "required": [parameter]}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


TOOLS = [tool("stock", "shelf"), tool("add", "numbers")]
SHELVES = {"north": "12", "south": "30"}


def run(call: ToolCall) -> str:
    """What the tool says; a shelf that is not there is an error, which asks the reasoner again."""
    given = json.loads(call.arguments)
    if call.name == "add":
        return str(sum(int(number) for number in given["numbers"].split()))
    return SHELVES.get(given["shelf"], f"Error: there is no shelf {given['shelf']!r}, only {', '.join(SHELVES)}")


def calls(number: int, name: str, **arguments: str) -> Script:
    """A turn in which the generator calls a tool."""
    return Script(tool_calls=(ToolCall(f"call-{number}", name, json.dumps(arguments)),))


reasoner = Scripted(
    "Ask for the stock of each shelf, north, west and south, then add the numbers.",
    "There is no west shelf. Go on with south, then add 12 and 30.",
)
generator = Scripted(
    calls(1, "stock", shelf="north"),
    calls(2, "stock", shelf="west"),
    calls(3, "stock", shelf="south"),
    calls(4, "add", numbers="12 30"),
    "There are 42 pieces.",
)

with DuetClient(reasoner, generator, signal_scope=RunScope(most_calls=2)) as duet:
    messages = [Message("user", "How many pieces do we have?")]
    while True:
        reply = duet.chat(messages, tools=TOOLS)
        asked = reply.gate.reason or "the gate wants a plan" if reply.gate is not None else ""
        print(f"{reply.signal.tokens:3} tokens of signal ({asked})")
        if not reply.tool_calls:
            break
        messages.append(reply.message)  # carries the signal: store it, and the run survives a restart
        for call in reply.tool_calls:
            result = run(call)
            print(f"      {call.name}({call.arguments}) → {result}")
            messages.append(Message("tool", result, tool_call_id=call.id))

print(reply.text)
if (totals := reply.receipt.run) is not None:
    tokens = totals.usage.total_tokens
    print(f"{totals.tool_turns} tool turns, {totals.reasoner_calls} calls of the reasoner, {tokens} tokens")
