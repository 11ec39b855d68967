"""LangChain's conformance suite, and an agent, against a real vLLM on the CPU; `make test-langchain-vllm` runs them.

Left out are the tests whose outcome a model of 135 million parameters decides.
"""
