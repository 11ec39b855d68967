"""Whether what serves a pair's models, and what is asked of it, is what the pair was trained with."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from duet_sdk.errors import PairError
from duet_sdk.pair.fingerprint import (
    CONVERSATION,
    Fingerprint,
    fingerprint_of_files,
    quantisation_of_folder,
    sum_of_ids,
)

if TYPE_CHECKING:
    from pathlib import Path

    from duet_sdk.backends.base import Backend
    from duet_sdk.pair.manifest import Manifest
    from duet_sdk.types import Stage

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Conformity:
    """Compares models with a manifest when they connect, and requests when they are made.

    Each deviation is logged as a warning once, or raised every time.
    """

    manifest: Manifest
    folders: dict[Stage, Path]
    """Folders of the models that lie on this machine."""
    strict: bool = False
    """Whether a deviation is raised."""
    _reported: set[str] = field(default_factory=set)

    async def check_model(self, stage: Stage, backend: Backend) -> None:
        """Compare a connected model's tokenizer, template and quantisation with the manifest's.

        What the manifest does not pin, or the model's server does not tell, is not compared.

        Raises:
            PairError: something differs, and deviations are raised.
            BackendError: the server does not answer.
        """
        entry = self.manifest.stages[stage]
        pinned = Fingerprint(entry.tokenizer, entry.chat_template, entry.quantisation, entry.conversation)
        if pinned == Fingerprint():
            return
        found = await self._found(stage, backend)
        compared = {
            "tokenizer": (pinned.tokenizer, found.tokenizer),
            "chat template": (pinned.chat_template, found.chat_template),
            "template or tokenizer": (pinned.conversation, found.conversation),
        }
        deviating = [name for name, (one, other) in compared.items() if None not in (one, other) and one != other]
        if stage in self.folders and pinned.quantisation != found.quantisation:
            deviating.append("quantisation")
        if deviating:
            self._deviation(
                f"the {stage} {backend.name}/{backend.model} differs from the one the pair was trained with "
                f"({', '.join(deviating)}); serve the model that pair.json names, or measure the pair again "
                "(`duet pair check`)"
            )

    def check_tools(self, tools: object) -> None:
        """Refuse, or warn of, tools where the pair was trained without.

        Raises:
            PairError: there are tools, and deviations are raised.
        """
        if tools and self.manifest.tools is False:
            self._deviation(
                "this request has tools, but the pair was trained without them: answers may be worse; use a pair "
                "that was trained with tools"
            )

    async def _found(self, stage: Stage, backend: Backend) -> Fingerprint:
        """What can be checked of a connected model."""
        files = await backend.tokenizer()
        local = Fingerprint() if files is None else await asyncio.to_thread(fingerprint_of_files, files)
        folder = self.folders.get(stage)
        quantisation = None if folder is None else await asyncio.to_thread(quantisation_of_folder, folder)
        conversation = None
        if files is None and (ids := await backend.chat_ids(CONVERSATION)) is not None:
            conversation = sum_of_ids(ids)
        return Fingerprint(local.tokenizer, local.chat_template, quantisation, conversation)

    def _deviation(self, what: str) -> None:
        if self.strict:
            raise PairError(what)
        if what not in self._reported:
            self._reported.add(what)
            _log.warning("%s; strict=True makes this an error", what)
