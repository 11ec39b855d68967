"""A DUET pair as an LLM of LlamaIndex."""

from llama_index.llms.duet.base import DuetLLM as DuetLLM
