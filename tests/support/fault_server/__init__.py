"""A scripted OpenAI-compatible server with vLLM's additions, which can do wrong everything that servers do wrong.

A token is a word with the whitespace before it, unless tokenizer files are given. Faults are chosen by answer, or by
request (``extra_body={"fault": "cut_rst"}``). ``PYTHONPATH=.:tests python -m support.fault_server --port 8101`` runs it on its
own.
"""

from support.fault_server.answers import DEFAULT, FAULTS, Answer, Fault
from support.fault_server.server import FaultServer
from support.fault_server.starting import raw_server, refused_url, running

__all__ = ["DEFAULT", "FAULTS", "Answer", "Fault", "FaultServer", "raw_server", "refused_url", "running"]
