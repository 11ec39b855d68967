"""An agent's run over several requests: what its history carries, and what is remembered of it."""
