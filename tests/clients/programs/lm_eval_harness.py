"""lm-evaluation-harness: two questions of a task of our own, which needs nothing from a hub."""

import json
import os
from pathlib import Path

import lm_eval
from told import KEY, QUESTION, SPENT_KEY, URL, seen, tell

TASK = {
    "task": "primes",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "primes.jsonl"}},
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 64},
    "metric_list": [{"metric": "exact_match"}],
}


def ask(model="duet", key=KEY):
    os.environ["OPENAI_API_KEY"] = key
    asked = {"model": model, "base_url": f"{URL}/chat/completions", "max_retries": 2, "eos_string": "<end>"}
    done = lm_eval.simple_evaluate(
        "local-chat-completions", model_args=asked, tasks=[TASK], limit=2, apply_chat_template=True, bootstrap_iters=0
    )
    assert done["results"]["primes"]["exact_match,none"] == 1
    return seen(done["samples"]["primes"][0]["resps"][0][0], ())


question = json.dumps({"question": QUESTION, "answer": "There are 17 primes."})
Path("primes.jsonl").write_text(f"{question}\n" * 3, encoding="utf-8")
tell(chat={"plain": ask, "unknown_model": lambda: ask("gpt-99"), "spent": lambda: ask(key=SPENT_KEY)})
