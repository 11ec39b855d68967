"""A DUET pair as a model of the OpenAI Agents SDK."""

from duet_openai_agents.model import DuetModel as DuetModel
from duet_openai_agents.model import facts_of as facts_of
