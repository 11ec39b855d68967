"""Inspect: an evaluation of two questions, and one with a tool."""

from inspect_ai import Task
from inspect_ai import eval as evaluate
from inspect_ai.dataset import Sample
from inspect_ai.model import get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import tool as as_tool
from told import ERRAND, KEY, QUESTION, ROOT, SPENT_KEY, URL, look_up, seen, tell


@as_tool(name="look_up")
def weather():
    async def execute(town: str):
        """Look up the weather of a town.

        Args:
            town: the name of the town.
        """
        return look_up(town)

    return execute


def scenarios(provider, url):
    def ask(question, target, solver, model="duet", key=KEY):
        asked = get_model(f"{provider}/{model}", base_url=url, api_key=key, memoize=False)
        samples = [Sample(question, target=target, id=n) for n in (1, 2)]
        task = Task(samples, solver=solver, scorer=includes())
        (log,) = evaluate(task, model=asked, limit=1, display="none", log_dir="logs", max_retries=1)
        if log.status != "success":
            raise RuntimeError(log.error.message)
        (used,) = log.stats.model_usage.values()
        message = log.samples[0].output.message
        parts = message.content if isinstance(message.content, list) else []
        reasoning = "".join(part.summary or part.reasoning for part in parts if part.type == "reasoning")
        assert log.results.scores[0].metrics["accuracy"].value == 1
        return seen(message.text, (used.input_tokens, used.output_tokens, used.reasoning_tokens), reasoning=reasoning)

    return {
        "plain": lambda: ask(QUESTION, "17", generate()),
        "tool": lambda: ask(ERRAND, "rains", [use_tools(weather()), generate()]),
        "unknown_model": lambda: ask(QUESTION, "17", generate(), model="gpt-99"),
        "spent": lambda: ask(QUESTION, "17", generate(), key=SPENT_KEY),
    }


tell(chat=scenarios("openai-api/duet", URL), messages=scenarios("anthropic", ROOT))
