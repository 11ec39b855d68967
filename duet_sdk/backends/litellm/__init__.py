"""Hosted models, through LiteLLM."""
