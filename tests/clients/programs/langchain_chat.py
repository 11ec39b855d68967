"""langchain-openai's ChatOpenAI."""

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool as as_tool
from langchain_openai import ChatOpenAI
from told import ERRAND, KEY, QUESTION, SPENT_KEY, URL, look_up, seen, tell


def scenarios(*, responses=False):
    def chat(model="duet", key=KEY, **more):
        shown = {"reasoning": {"summary": "auto"}} if responses else {}
        return ChatOpenAI(model=model, base_url=URL, api_key=key, use_responses_api=responses, **shown, **more)

    def told_by(message, pieces=None):
        usage = message.usage_metadata
        shown = [part.get("reasoning") or "" for part in message.content_blocks if part["type"] == "reasoning"]
        reasoning = message.additional_kwargs.get("reasoning_content") or "".join(shown)
        counts = usage["input_tokens"], usage["output_tokens"], usage["output_token_details"]["reasoning"]
        return seen(message.text, counts, reasoning=reasoning, pieces=pieces)

    def plain():
        return told_by(chat().invoke(QUESTION))

    async def streamed():
        whole, pieces = None, 0
        async for piece in chat(stream_usage=True).astream(QUESTION):
            pieces += bool(piece.text)
            whole = piece if whole is None else whole + piece
        return told_by(whole, pieces)

    def tool():
        duet, talk = chat().bind_tools([as_tool(look_up)]), [HumanMessage(ERRAND)]
        talk.append(duet.invoke(talk))
        talk += [ToolMessage(look_up(**call["args"]), tool_call_id=call["id"]) for call in talk[-1].tool_calls]
        return told_by(duet.invoke(talk))

    return {
        "plain": plain,
        "streamed": streamed,
        "tool": tool,
        "unknown_model": lambda: chat("gpt-99").invoke(QUESTION),
        "spent": lambda: chat(key=SPENT_KEY).invoke(QUESTION),
    }


tell(chat=scenarios(), responses=scenarios(responses=True))
