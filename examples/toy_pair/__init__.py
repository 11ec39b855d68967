"""A toy: a seeded family of questions and tiny models from scratch, for demonstrations, tests and trials.

It shows that training works; it says nothing about language models.
"""
