"""Splits a sum, said in words, symbols or both, into words with one meaning each (floor 4).

One table says what counts as a word and what it means; the meanings are put together in `arithmetic`.
It deliberately guesses nothing: a phrase with one word that is not in the table is no sum.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from models.practice import numerals

PHRASE_CHARS_MAX = 2_000  # nobody says a longer sum
_FUNCTIONS = (
    "abs|acos|asin|atan|atan2|ceil|cos|cosh|degrees|exp|factorial|floor|gcd|hypot|lcm|ln|log|log10|log2|max|min"
    "|pow|radians|round|sin|sinh|sqrt|sum|tan|tanh|trunc"
)

# Longest phrases first where one begins with another. An empty kind is dropped.
_TABLE: tuple[tuple[str, str], ...] = (
    ("", r"\s+|[$€£]|\b(?:(?:the )?(?:result of|answer to|value of|numbers?)|the|together|exactly|please)\b"),
    ("pow", r"\*\*|\^|\b(?:raised )?to (?:the )?power(?: of)?\b|\braised to\b"),
    ("add_more", r"\bmore than\b"),
    ("sub_less", r"\bless than\b"),
    ("+", r"\+|\bplus\b|\badded to\b"),
    ("-", r"-|−|–|\bminus\b"),
    ("*", r"\*|×|·|⋅|\btimes\b|\bmultiplied (?:by|with)\b|(?<=[\d) ])x(?=[\d( ])"),
    ("/", r"/|÷|\bdivided by\b|\bover\b"),
    ("mod", r"\bmod(?:ulo|ulus)?\b"),
    ("%", r"%|\bper ?cent\b"),
    ("negative", r"\bnegative\b"),
    ("squared", r"\bsquared\b|²"),
    ("cubed", r"\bcubed\b|³"),
    ("!", r"!|\bfactorial\b(?! of)"),
    ("sqrt_of", r"\b(?:a )?square root(?: of)?\b|√"),
    ("cbrt_of", r"\b(?:a )?(?:cube|cubic) root(?: of)?\b"),
    ("factorial_of", r"\bfactorial of\b"),
    ("abs_of", r"\babsolute (?:value )?of\b"),
    ("square_of", r"\bsquare(?: of)?\b"),
    ("cube_of", r"\bcube(?: of)?\b"),
    ("half_of", r"\b(?:one |a )?half(?: of)?\b|\bhalve\b"),
    ("third_of", r"\b(?:one |a )third of\b"),
    ("quarter_of", r"\b(?:one |a )(?:quarter|fourth) of\b"),
    ("double_of", r"\bdouble(?: of)?\b|\btwice\b"),
    ("triple_of", r"\btriple(?: of)?\b|\bthrice\b"),
    ("sum_of", r"\b(?:sum|total) of\b|\badd(?: up)?\b"),
    ("product_of", r"\bproduct of\b|\bmultiply\b"),
    ("difference_of", r"\bdifference (?:between|of)\b"),
    ("quotient_of", r"\bquotient of\b|\bdivide\b"),
    ("mean_of", r"\b(?:an )?(?:average|mean) of\b"),
    ("subtract", r"\bsubtract\b|\btake away\b|\btake\b|\bdeduct\b"),
    ("raise", r"\braise\b"),
    ("increase", r"\bincrease\b"),
    ("decrease", r"\b(?:decrease|reduce|lower)\b"),
    ("from", r"\b(?:away )?from\b"),
    ("by", r"\bby\b|\bwith\b"),
    ("to", r"\bto\b"),
    ("and", r"\band\b"),
    ("of", r"\bof\b"),
    ("off", r"\boff(?: of)?\b"),
    ("last", r"\b(?:it|that|this|last (?:result|answer|one)|previous (?:result|answer)|result|answer)\b"),
    ("function", rf"\b(?:{_FUNCTIONS})(?=\s*\()"),
    ("constant", r"\b(?:pi|e|tau)\b|π"),
    ("number", numerals.IN_WORDS.pattern),
    ("number", numerals.IN_DIGITS.pattern),
    ("(", r"[(\[]"),
    (")", r"[)\]]"),
    (",", r","),
)
_TOKENS = tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _TABLE)


@dataclass(frozen=True, slots=True)
class Token:
    """One word or sign: what it means, and the text of a number or name."""

    kind: str
    text: str


def tokens(phrase: str) -> list[Token] | None:
    """The meaningful words of a phrase in order, or None when one of them belongs to no sum."""
    if len(phrase) > PHRASE_CHARS_MAX:
        return None
    found: list[Token] = []
    place = depth = 0
    while place < len(phrase):
        kind, match = _next(phrase, place, in_brackets=depth > 0)
        if match is None:
            return None
        place = match.end()
        depth += (kind == "(") - (kind == ")")
        if kind:
            found.append(Token(kind, _text(kind, match)))
    return found


def _next(phrase: str, place: int, *, in_brackets: bool) -> tuple[str, re.Match[str] | None]:
    if in_brackets and (match := numerals.IN_DIGITS_UNGROUPED.match(phrase, place)):
        return "number", match
    for kind, pattern in _TOKENS:
        if match := pattern.match(phrase, place):
            return kind, match
    return "", None


def _text(kind: str, match: re.Match[str]) -> str:
    if kind == "number":
        return numerals.from_words(match) if "whole" in match.re.groupindex else numerals.from_digits(match)
    return "pi" if match[0] == "π" else match[0].lower()
