"""LangChain's conformance suite on ChatDuet and on other chat models, against the same servers.

`python -m conformance`, run in this folder's parent, prints how many of its tests each passes.
"""
