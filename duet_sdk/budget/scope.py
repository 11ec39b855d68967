"""What a limit applies to: ``kind:name``, such as ``tenant:a`` or ``session:7``.

Kind: a lower-case letter, then up to 31 lower-case letters, digits, ``_`` and ``-``. Name: 1 to 200 letters and digits
of ASCII and ``. _ - : @ + = / ~ %``. Scopes appear in errors and reports, so what looks like a key is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import quote

from duet_sdk.errors import InvalidRequest

MOST_SCOPES: Final = 16
"""Of one hold: every one is read and written at each hold and settle, and requests have a handful."""
_SCOPE: Final = re.compile(r"(?P<kind>[a-z][a-z0-9_-]{0,31}):(?P<name>[A-Za-z0-9._:@+=/~%-]{1,200})")
_KEY: Final = re.compile(r"[A-Za-z0-9._:@+=/~%-]{1,200}")
_SECRET_KIND: Final = re.compile(r"(.*[_-])?(key|token|secret|passw(or)?d|authorization)")
_SECRET_NAME: Final = re.compile(r"(sk|pk|rk|gsk|hf|ghp|github_pat|glpat|xox[a-z]|AIza|AKIA|eyJ)[-_A-Za-z0-9.]{16,}")


def scope_of(kind: str, label: str) -> str:
    """The scope of a label that may hold any text; what a name cannot hold is percent-encoded.

    >>> scope_of("user", "Jürgen K.")
    'user:J%C3%BCrgen%20K.'

    Raises:
        InvalidRequest: a malformed kind, an empty label, or one that is too long.
    """
    return check_scope(f"{kind}:{quote(label.encode('utf-8', 'surrogatepass'), safe='._-:@+=/~')}")


def check_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """The scopes in their order, each once.

    Raises:
        InvalidRequest: one is malformed, or there are too many.
    """
    given: object = scopes  # callers pass a single string, too
    if isinstance(given, str):
        raise InvalidRequest("scopes must be a list of strings, such as ['tenant:a'], got a single string")
    listed = tuple(scopes)
    return _check_all(listed if all(isinstance(scope, str) for scope in listed) else ("",))


@lru_cache(maxsize=4096)
def _check_all(scopes: tuple[str, ...]) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(map(_check, scopes)))
    if len(found) > MOST_SCOPES:
        raise InvalidRequest(f"a hold can be in {MOST_SCOPES} scopes at most, got {len(found)}")
    return found


def check_scope(scope: str) -> str:
    """The scope itself.

    Raises:
        InvalidRequest: it is malformed, or looks like a key.
    """
    given: object = scope
    return _check(given if isinstance(given, str) else "")


@lru_cache(maxsize=4096)
def _check(scope: str) -> str:
    match = _SCOPE.fullmatch(scope)
    if match is None:
        # Not quoted: a malformed scope may hold anything.
        raise InvalidRequest(
            "a scope must be kind:name, such as 'tenant:a': the kind in lower case, the name 1 to 200 characters of "
            "A-Z a-z 0-9 . _ - : @ + = / ~ % (duet_sdk.budget.scope_of encodes any label)"
        )
    if _SECRET_KIND.fullmatch(match["kind"]) or _SECRET_NAME.match(match["name"]):
        raise InvalidRequest(
            "scopes appear in errors and reports, and this one looks like a key; use a label or a hash instead"
        )
    return scope


def check_key(key: str) -> str:
    """The idempotency key itself.

    Raises:
        InvalidRequest: it is malformed.
    """
    given: object = key
    if not isinstance(given, str) or _KEY.fullmatch(given) is None:
        raise InvalidRequest("a hold's key must be 1 to 200 characters of A-Z a-z 0-9 . _ - : @ + = / ~ %")
    return key
