"""DUET as a LangChain chat model: a strong reasoner writes a short signal, a light generator answers from it.

>>> from langchain_duet import ChatDuet
>>> model = ChatDuet(reasoner="scripted/17", generator="scripted/There are 17.")
>>> model.invoke("How many primes are below 60?").text
'There are 17.'
"""

from langchain_duet._version import __version__
from langchain_duet.chat_models import ChatDuet

__all__ = ["ChatDuet", "__version__"]
