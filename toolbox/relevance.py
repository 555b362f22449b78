"""Tells when search results have nothing to do with what was searched for.  (floor 4)

A provider that mixes up its answers sends results that look as good as any. What gives them away is
that none of them mentions a single word of the query. The check leans far to the side of the results,
since a good answer that is doubted aloud does harm too:
- One mention in one title, excerpt or address is enough, also in the middle of a word.
- Of a longer word its beginning counts, so `running` is found in "run" and `Pythn` in "Python".
- Of words in scripts other than ours any two neighbouring characters count.
- Capitals, accents and words that stand in every query count for nothing.

Doubts are `strong` only where the query has several words and all is written in one script; a
result may well answer a single word by its synonym, and a query in one script by a page in
another. What this does not do: read, or judge whether what it mentions is true.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from enum import Enum

BEGINNING = 4
"""Characters of a longer word that count. What is left of most words in English after inflection."""

_WORD = re.compile(r"[^\W_]+")
_COMMON = frozenset(
    _WORD.findall(
        "about and are can did does far for from get had has have how its latest many much new news not now old one "
        "out please search show tell that the their there they this today was web what when where which who why will "
        "with you your"
    )
)


class Doubt(Enum):
    """How sure it is that results are about something else."""

    NONE = "none"
    WEAK = "weak"
    STRONG = "strong"


def doubt_of(query: str, results: Iterable[str]) -> Doubt:
    """Whether none of these results (each all of its text) mentions anything of the query."""
    wanted = {word for word in _WORD.findall(_folded(query)) if len(word) >= _least(word) and word not in _COMMON}
    found = _folded("\n".join(results))
    if not wanted or not found.strip() or any(piece in found for word in wanted for piece in _pieces(word)):
        return Doubt.NONE
    return Doubt.STRONG if len(wanted) > 1 and _is_latin(found) and all(map(str.isascii, wanted)) else Doubt.WEAK


def _folded(text: str) -> str:
    """Without capitals, accents and typographic marks."""
    split = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(character for character in split if not unicodedata.combining(character))
    return re.sub("[‐-‧‹›«»·]", " ", plain)


def _is_latin(text: str) -> bool:
    letters = [character.isascii() for character in text if character.isalpha()]
    return sum(letters) >= 0.9 * len(letters)


def _least(word: str) -> int:
    return 3 if word.isascii() else 1


def _pieces(word: str) -> list[str]:
    """What of a word counts as its mention."""
    if word.isascii():
        return [word[:BEGINNING]]
    return [word[at : at + 2] for at in range(max(1, len(word) - 1))]
