"""A model's chat template made to take a signal, so that a server started with it can combine one with tools."""

from __future__ import annotations

import re

from duet_sdk.errors import ConfigError, InvalidRequest
from duet_sdk.rendering.files import TokenizerFiles
from duet_sdk.rendering.probe import ThinkBlock
from duet_sdk.rendering.renderer import Renderer
from duet_sdk.rendering.template import ChatTemplate

SIGNAL_ARGUMENT = "duet_signal"
"""The template's argument, sent as ``chat_template_kwargs``."""
_GIVEN = f"{SIGNAL_ARGUMENT} is defined and {SIGNAL_ARGUMENT}"
_SWITCHES = ("enable_thinking", "thinking")
_SIGNAL = "Two and\n\n two.\n"
_ONE = ({"role": "user", "content": "2+2?"},)
_SEVERAL = (*_ONE, {"role": "assistant", "content": "4"}, {"role": "user", "content": "3+3?"})
_WITH_SYSTEM = ({"role": "system", "content": "Be brief."}, *_ONE)
_TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}


def signal_template(files: TokenizerFiles) -> str:
    """The template of these files, which writes the argument ``duet_signal`` as closed thinking into the opened turn.

    Without the argument it renders what it did before. With it, whatever the switch for thinking says: servers'
    parsers want that off, to take what follows for the answer.

    Raises:
        ConfigError: the template or tokenizer cannot hold a signal safely, or not in this way.
        MissingExtra: jinja2 or tokenizers is not installed.
    """
    source, block = files.chat_template or "", Renderer(files).think_block
    switches = {**{name: True for name in _SWITCHES if re.search(rf"\b{name}\b", source)}, **block.kwargs}
    thinking_on = "".join(f"{{% set {name} = {str(value).lower()} %}}" for name, value in switches.items())
    head = f"{{% if {_GIVEN} %}}{thinking_on}{{% endif %}}\n" if switches else ""
    # An expression, as blocks swallow the whitespace before them. Jinja drops a newline at the end of a template.
    written = f"{block.opener!a} ~ {SIGNAL_ARGUMENT} ~ {block.trail + block.closing!a}"
    tail = f"{{{{ ({written}) if add_generation_prompt and {_GIVEN} else '' }}}}"
    made = head + source.removesuffix("\n") + tail
    _check(ChatTemplate(source, files.special_tokens), ChatTemplate(made, files.special_tokens), block)
    return made


def _check(before: ChatTemplate, made: ChatTemplate, block: ThinkBlock) -> None:
    """Render sample conversations with both.

    Raises:
        ConfigError: they are not what is promised.
    """
    for turns in (_ONE, _SEVERAL, _WITH_SYSTEM):
        for tools in ((), (_TOOL,)):
            for kwargs in ({}, *({name: False} for name in _SWITCHES)):
                try:
                    plain = before.render(turns, generation=True, tools=tools, kwargs=kwargs)
                    opened = before.render(turns, generation=True, tools=tools, kwargs=block.kwargs)
                except InvalidRequest:
                    continue  # many templates know no system prompt, or no tools
                held = opened + block.opener + _SIGNAL + block.trail + block.closing
                guided = made.render(turns, generation=True, tools=tools, kwargs={**kwargs, SIGNAL_ARGUMENT: _SIGNAL})
                if guided != held or made.render(turns, generation=True, tools=tools, kwargs=kwargs) != plain:
                    raise ConfigError("this chat template cannot be made to take a signal; use handoff='instruct'")
