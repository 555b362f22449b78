"""Reads numbers the way people write them: `1,250`, `2.5 million`, "one hundred and five" (floor 4).

Only English, only finite numbers. The answer is the text of a plain number, exactly as large as what was
said, since sums are done by the calculator and not here.
"""

from __future__ import annotations

import re
from decimal import Context, Decimal


def _count(words: str, start: int = 0, step: int = 1) -> dict[str, int]:
    return {word: start + step * place for place, word in enumerate(words.split())}


_UNITS = _count("zero one two three four five six seven eight nine")
_TEENS = _count("ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen", start=10)
_TENS = _count("twenty thirty forty fifty sixty seventy eighty ninety", start=20, step=10)
_SCALES = {
    "dozen": 12,
    "thousand": 1_000,
    "million": 1_000_000,
    "billion": 1_000_000_000,
    "trillion": 1_000_000_000_000,
}
_VALUES = _UNITS | _TEENS | _TENS


def _either(words: dict[str, int]) -> str:
    return f"(?:{'|'.join(words)})"


# Built from the inside out, so that only well-formed numbers match and "twelve and seven" stays two.
_BELOW_100 = rf"(?:{_either(_TENS)}(?:[\s-]+{_either(_UNITS)})?|{_either(_TEENS)}|{_either(_UNITS)})\b"
_HUNDREDS = rf"(?:(?:{_either(_UNITS | _TEENS)}|a)\s+)?hundred\b(?:\s+(?:and\s+)?{_BELOW_100})?"
_BELOW_1000 = rf"(?:{_HUNDREDS}|{_BELOW_100}|a(?=\s+{_either(_SCALES)}\b))"
_SCALE = rf"(?:\s+{_either(_SCALES)}s?\b)"
_GROUPS = rf"{_BELOW_1000}{_SCALE}?(?:\s+(?:and\s+)?{_BELOW_1000}{_SCALE})*"
_WORDS = rf"{_GROUPS}(?:(?<=sand|lion)\s+(?:and\s+)?{_BELOW_1000})?"  # after thousand, million, billion
_DECIMALS = rf"(?:\s+point(?P<decimals>(?:\s+{_either(_UNITS)})+)\b)"
IN_WORDS = re.compile(rf"(?P<whole>{_WORDS}){_DECIMALS}?", re.IGNORECASE)

_PLAIN = r"(?:\d+(?:\.\d+)?|\.\d+)(?:e[+-]?\d+)?"
_GROUPED = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)"
_SCALED = rf"(?:\s*(?P<scale>{_either(_SCALES)})s?\b)?"
IN_DIGITS = re.compile(rf"(?P<digits>{_GROUPED}|{_PLAIN})(?![\d])" + _SCALED, re.IGNORECASE)
# Between brackets a comma separates arguments: max(100,200).
IN_DIGITS_UNGROUPED = re.compile(rf"(?P<digits>{_PLAIN})" + _SCALED, re.IGNORECASE)


def from_digits(match: re.Match[str]) -> str:
    """The plain number that `IN_DIGITS` matched: "2.5 million" becomes "2500000"."""
    digits = match["digits"].replace(",", "")
    scale = _SCALES.get((match["scale"] or "").lower())
    if scale is None or "e" in digits.lower():
        return digits
    return _plain(Context(prec=len(digits) + 15).multiply(Decimal(digits), scale))


def from_words(match: re.Match[str]) -> str:
    """The plain number that `IN_WORDS` matched: "one hundred and five" becomes "105"."""
    total = group = 0
    for word in re.findall(r"[a-z]+", match["whole"].lower()):
        if word == "hundred":
            group = max(group, 1) * 100
        elif word.removesuffix("s") in _SCALES:
            total += max(group, 1) * _SCALES[word.removesuffix("s")]
            group = 0
        else:
            group += _VALUES.get(word, 1 if word == "a" else 0)
    decimals = "".join(str(_UNITS[word]) for word in (match["decimals"] or "").lower().split())
    return f"{total + group}.{decimals}" if decimals else str(total + group)


def _plain(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
