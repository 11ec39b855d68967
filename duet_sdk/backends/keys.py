"""What a key looks like in foreign words: by its form, by what stands in front of it, and as others write it."""

from __future__ import annotations

import html
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

_BEGINNINGS: Final = (
    # OpenAI, Anthropic, DeepSeek, OpenRouter; LangSmith; Pinecone; Groq; xAI; Perplexity; Fireworks; Cerebras; Together
    *("sk", "pk", "key", "lsv2_", "pcsk_", "gsk", "xai", "pplx-", "fw_", "csk-", "tgp_"),
    # Hugging Face; NVIDIA; Replicate; Databricks; Google; GitHub; GitLab; Slack; Tavily
    *("hf_", "nvapi-", "r8_", "dapi", "AIza", "gh[a-z]_", "github_pat_", "glpat-", "xox[a-z]-", "tvly-"),
)
"""How keys of providers begin. Source: their documentation; config/gitleaks.toml of gitleaks."""
_LIKE: Final = re.compile(
    rf"\b(?:{'|'.join(_BEGINNINGS)})[-_A-Za-z0-9*]{{8,}}"
    # JSON Web Tokens, whose header begins with {"; Google's OAuth tokens; access keys of AWS.
    r"|\b(?:eyJ|ya29\.)[-_.A-Za-z0-9]{8,}|(?-i:\bA[KS]IA[A-Z0-9]{12,})"
    r"|\bbearer\s+\S+|\bbasic\s{1,4}(?=\S{0,256}[\d=])[A-Za-z0-9+/_-]{4,}={0,2}"
    # In a URL: a user with a password, and what the query says of keys.
    r"|(?<=://)[^\s/@\"'<>]{1,256}(?=@)"
    r"|(?<=[?&;])[\w-]{0,20}?(?:key|token|secret|signature|sig|password|auth|credential)[\w-]{0,20}=([^\s&\"'<>]+)"
    # Headers, as servers and libraries repeat them, also as JSON or Python writes them.
    r"|\bauthorization[\"']?\s{0,4}[:=]\s{0,4}[\"']?((?:[\w-]{1,20}\s{1,4})?[^\s\"',}]+)"
    r"|(?:api|access|auth|subscription)[-_](?:key|token)[\"']?\s{0,4}[:=]\s{0,4}[\"']?([^\s\"',}]+)"
    r"|\bapi key(?: provided)?[\"']?\s{0,4}[:=]\s{0,4}[\"']?(?=\S{0,256}[\d*])([^\s\"',}]+)"
    r"|\bcookie[\"']?\s{0,4}:\s{0,4}([^\s\"'][^\n\"']*)"
    # A key that was masked already, with its beginning and end left in sight.
    r"|[\w-]{0,12}\*{4,}[\w-]{0,12}",
    re.IGNORECASE,
)
_LEAST: Final = 6
"""Characters of a secret from which on its encodings are looked for: those of a shorter one stand in many words."""
_SHOWN_BEFORE: Final = (0, 2, 3)
"""Digits in base64 that depend on what stands in front of a secret, where 0, 1 or 2 bytes of a group of 3 are taken."""


def places(words: str) -> Iterator[tuple[int, int]]:
    """Where the words hold what looks like a key, whoever's it is; what stands in front of one stays."""
    for found in _LIKE.finditer(words):
        yield found.span(found.lastindex or 0)


def hidden(words: str) -> str:
    """The words with all that looks like a key hidden.

    >>> hidden("GET https://me:sesame@example.org/v1?key=17&n=1")
    'GET https://***@example.org/v1?key=***&n=1'
    """
    shown, done = [], 0
    for begin, end in places(words):
        shown += [words[done:begin], "***"]
        done = end
    return "".join(shown) + words[done:]


def spellings(secret: str) -> Iterator[str]:
    """A secret as servers repeat it: as it is, percent-encoded, in HTML, in hexadecimal and in base64."""
    yield secret
    if len(secret) < _LEAST:
        return
    yield quote(secret, safe="", errors="replace")
    yield html.escape(secret)
    raw = secret.encode("utf-8", "replace")
    yield raw.hex()
    for taken, unsure in enumerate(_SHOWN_BEFORE):
        for others in (b"+/", b"-_"):
            digits = b64encode(b"\0" * taken + raw, others).decode().rstrip("=")
            yield digits[unsure:-1]  # the last one may depend on what follows


def in_header(value: str) -> Iterator[str]:
    """What of a header's value is secret: all of it, what follows its scheme, and what ``Basic`` encodes."""
    yield value
    scheme, _, rest = value.partition(" ")
    if not rest.strip():
        return
    yield rest.strip()
    if scheme.lower() == "basic":
        try:
            yield b64decode(rest.strip(), validate=True).decode().partition(":")[2]
        except ValueError:
            return
