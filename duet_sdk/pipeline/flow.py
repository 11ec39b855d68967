"""What the stages of one request share."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from duet_sdk.budget import UsdOf
from duet_sdk.errors import ConfigError
from duet_sdk.pipeline.attempt import Slot
from duet_sdk.pipeline.draft import Draft
from duet_sdk.pipeline.parts import Parts
from duet_sdk.types import Message, Stage

Result = TypeVar("Result")


class Flow:
    """One request on its way through a pair: its parts, its draft, and what one stage must know of another.

    Attributes:
        reasoner_failed: the reasoner cannot take over, as it has failed itself.
        generator_down: the generator does not answer, so a signal would be money for nothing.
    """

    def __init__(self, parts: Parts, draft: Draft) -> None:
        self.parts = parts
        self.draft = draft
        self.request = draft.request
        self.budget = draft.budget
        self.reasoner_failed = False
        self.generator_down = False

    def seen_by(self, stage: Stage) -> tuple[Message, ...]:
        """The messages that a stage sees.

        Raises:
            ConfigError: the user's policy left nothing to answer.
        """
        seen = tuple(self.parts.context(self.request.messages, stage))
        if not any(message.role == "user" for message in seen):
            raise ConfigError(f"the context policy left the {stage} no user message; it must keep the last one")
        return seen

    def slot(self, stage: Stage, usd_of: UsdOf) -> Slot:
        """Who is called for a stage, on this request's account."""
        model = self.parts.model(stage)
        count_text = model.renderer.count_text if model.renderer is not None else None
        return Slot(
            stage,
            model.name,
            model.backend,
            self.parts.prices,
            self.draft.account,
            self.budget,
            usd_of,
            count_text,
        )

    async def in_time(self, work: Coroutine[object, object, Result]) -> Result:
        """Await within the request's deadline.

        Raises:
            DeadlineExceeded: it passed.
        """
        left_s = self.budget.left_s(self.budget.deadline)
        if left_s is None:
            return await work
        timeout = asyncio.timeout(left_s)
        try:
            async with timeout:
                return await work
        except TimeoutError as error:
            if timeout.expired():
                raise self.budget.deadline_error() from error
            raise
