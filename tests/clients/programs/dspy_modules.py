"""DSPy: one question, and its agent ReAct; it does not stream from servers of this kind."""

import dspy
from told import ERRAND, KEY, QUESTION, SPENT_KEY, URL, look_up, seen, tell


def scenarios(**of_the_wire):
    def lm(name="duet", key=KEY):
        return dspy.LM(f"openai/{name}", api_base=URL, api_key=key, cache=False, **of_the_wire)

    def ask(module, question, model=None):
        model = model or lm()
        with dspy.context(lm=model):
            answer = module(question=question).answer
        usages = [call["usage"] for call in model.history]
        return seen(
            answer, [sum(usage.get(name, 0) for usage in usages) for name in ("prompt_tokens", "completion_tokens")]
        )

    return {
        "plain": lambda: ask(dspy.Predict("question -> answer"), QUESTION),
        "tool": lambda: ask(dspy.ReAct("question -> answer", tools=[look_up]), ERRAND),
        "unknown_model": lambda: ask(dspy.Predict("question -> answer"), QUESTION, lm("gpt-99")),
        "spent": lambda: ask(dspy.Predict("question -> answer"), QUESTION, lm(key=SPENT_KEY)),
    }


tell(chat=scenarios(), responses=scenarios(model_type="responses"))
