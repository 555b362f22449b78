"""How much one calculation may cost, and the error that says what was wrong with it (floor 4).

A thread that computes cannot be stopped from outside, so nothing here is stopped: every operation
is paid for before it starts, out of one budget, at a price taken from the size of its operands.
The budget counts work and not time, so the same text gives the same answer on every machine.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

Exact = int | Fraction
Kind = Literal["syntax", "ambiguous", "unknown_name", "domain", "limit"]

# CPython itself stops turning integers into text at 4,300.
DIGITS_MAX = 4_000
# Longest text, in characters. Two integers of full length and an operator still fit.
TEXT_MAX = 10_000
# Brackets inside brackets. A person reading the expression has given up long before.
NESTING_MAX = 100
# Work units are about a nanosecond. With reading the text and the error of pricing, the worst known
# expression takes 85 ms on a busy core; 150 are promised.
WORK_MAX = 40_000_000
# The price of any step, however small its operands.
STEP_WORK = 2_000

_TOO_LONG: int = 10**DIGITS_MAX
# A CPython integer keeps 30 bits a word; the price of most operations grows with words squared.
_WORD_BITS = 30


class CalculatorError(ValueError):
    """An expression that has no answer here: the message says what is wrong and what to write instead.

    `kind` is `syntax` (not an expression), `ambiguous` (could mean two things), `unknown_name`,
    `domain` (no real value exists) or `limit` (too long, too large or too much work).
    """

    def __init__(self, message: str, kind: Kind = "syntax") -> None:
        super().__init__(message)
        self.kind: Kind = kind


class Budget:
    """The work one calculation may still do."""

    __slots__ = ("_left",)

    def __init__(self, work: int = WORK_MAX) -> None:
        self._left = work

    def spend(self, work: int) -> None:
        """Pay for an operation before it starts; raises `CalculatorError` when it cannot be afforded."""
        self._left -= work
        if self._left < 0:
            raise CalculatorError("this takes too much work to compute; split it into smaller calculations", "limit")


def words(value: Exact) -> int:
    """The size of a number in machine words, numerator and denominator together."""
    return (value.numerator.bit_length() + value.denominator.bit_length()) // _WORD_BITS + 1


def fits(value: Exact) -> bool:
    """Whether numerator and denominator both have at most `DIGITS_MAX` digits."""
    return max(abs(value.numerator), value.denominator) < _TOO_LONG


def too_long(what: str = "the result") -> CalculatorError:
    """The error for an exact number with more than `DIGITS_MAX` digits."""
    return CalculatorError(f"{what} has more than {DIGITS_MAX:,} digits; use smaller numbers", "limit")


def kept(value: Exact) -> Exact:
    """The value, a whole fraction as an integer; raises `CalculatorError` when it is too long to keep."""
    if not fits(value):
        raise too_long()
    return value.numerator if value.denominator == 1 else value
