"""Shorter forms of the reasoner's signals: proposed, screened, learned, or rolled back.

Reinforcement learning selects among what the reasoner already writes correctly. What it never writes has to be
proposed: here by deletion rules that all signals share.
"""
