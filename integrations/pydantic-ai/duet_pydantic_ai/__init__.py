"""A DUET pair as a pydantic-ai model."""

from duet_pydantic_ai.model import DuetModel as DuetModel
from duet_pydantic_ai.model import DuetModelSettings as DuetModelSettings
