"""Reads the text of an arithmetic expression, and says exactly where and why it cannot (floor 4).

Text becomes tokens, tokens become a list of steps in the order they are done (Dijkstra's shunting yard:
one stack and no recursion, so depth cannot hurt). Nothing is computed here but the numbers as written,
and the length of each is known before it is.

Precedence is Python's; `^` means power. What could mean two things (`2(3)`, `1,234`, `15%`, `007`, `2e`)
is an error with a hint, never a guess: a wrong number that looks right is the one failure nobody notices.
`%` is the remainder; `15% + 3` reads as "15 percent" to a person, so a sign after `%` must stand against
its number (`7 % -3`). A comma inside a function's brackets separates arguments, so `max(1,234)` is 234; where
commas with and without spaces are mixed (`max(1,234, 5)`), it is an error.

It deliberately reads the digits 0-9 only: other scripts have digits that look like different ones of ours.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal

from toolbox.calculation.limits import (
    DIGITS_MAX,
    NESTING_MAX,
    TEXT_MAX,
    Budget,
    CalculatorError,
    Exact,
    fits,
    kept,
    too_long,
)
from toolbox.calculation.names import CONSTANTS, FUNCTIONS


@dataclass(frozen=True, slots=True)
class Apply:
    """Do this operation to the last so many values."""

    name: str
    arguments: int


Step = int | Fraction | Apply


def parse(text: str, budget: Budget) -> list[Step]:
    """The steps of an expression in the order they are computed; raises `CalculatorError`."""
    return _Parser(_tokens(text, budget)).steps()


# -- text to tokens ------------------------------------------------------------------------------

_Kind = Literal["number", "name", "operator", "(", ")", ",", "end"]


@dataclass(frozen=True, slots=True)
class _Token:
    kind: _Kind
    text: str
    start: int
    end: int
    value: Exact = 0


_TOKEN = re.compile(
    r"(?P<radix>0[xXbBoO][0-9A-Za-z_]*)"
    r"|(?P<decimal>(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9][0-9_]*)?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*|[πτ])"
    r"|(?P<operator>\*\*|//|[-+*/%^×÷−·⋅])"
    r"|(?P<mark>[(),])"
)
_DECIMAL = re.compile(r"([0-9]+(?:_[0-9]+)*)?(?:\.([0-9]+(?:_[0-9]+)*)?)?(?:[eE]([+-]?[0-9]+(?:_[0-9]+)*))?")
_LEADING_ZEROS = re.compile(r"^[0_]+(?=[0-9])")
_RADIX = {"0x": (16, "0-9 and a-f"), "0o": (8, "0-7"), "0b": (2, "0 and 1")}
_SAME_OPERATOR = {"^": "**", "×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-"}

# A number cut at thousands by commas: up to three digits, then three digits each.
_GROUP_START = re.compile(r"[0-9]{1,3}")
_GROUP_END = re.compile(r"[0-9]{3}(?:\.[0-9]*)?")

_CHARACTER_HINTS = {
    "!": "for 5! write factorial(5); comparisons are not supported",
    "=": "leave the equals sign out; there are no comparisons or assignments",
    "<": "comparisons are not supported",
    ">": "comparisons are not supported",
    "|": "for |x| write abs(x)",
    "[": "use round brackets ( )",
    "]": "use round brackets ( )",
    "{": "use round brackets ( )",
    "}": "use round brackets ( )",
    "&": "bitwise operators are not supported",
    "~": "bitwise operators are not supported",
    "–": "that is a dash; for a minus sign write -",
    "—": "that is a dash; for a minus sign write -",
    "√": "write sqrt(x)",
    "°": "write radians(x) to turn degrees into radians",
    "∞": "infinity is not a number here",
    ":": "for a ratio write /",
    ".": "a decimal point needs digits next to it, as in 0.5",
    "$": "leave the currency out",
    "€": "leave the currency out",
    "£": "leave the currency out",
    "'": "leave quotes out",
    '"': "leave quotes out",
    "\\": "write / to divide",
}


def _tokens(text: str, budget: Budget) -> list[_Token]:
    if len(text) > TEXT_MAX:
        raise CalculatorError(f"the expression has {len(text):,} characters; at most {TEXT_MAX:,} are read", "limit")
    tokens, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match:
            tokens.append(_token(match, budget))
            at = match.end()
        elif text[at] in " \t\r\n" or unicodedata.category(text[at]) == "Zs":
            at += 1
        else:
            raise _unreadable(text[at], at)
    tokens.append(_Token("end", "", at, at))
    return tokens


def _token(match: re.Match[str], budget: Budget) -> _Token:
    text, start, end = match.group(), match.start(), match.end()
    match match.lastgroup:
        case "radix":
            return _Token("number", text, start, end, _radix(text))
        case "decimal":
            return _Token("number", text, start, end, _decimal(text, budget))
        case "name":
            return _Token("name", text, start, end)
        case "operator":
            return _Token("operator", _SAME_OPERATOR.get(text, text), start, end)
    mark: Literal["(", ")", ","] = "(" if text == "(" else ")" if text == ")" else ","
    return _Token(mark, text, start, end)


def _unreadable(character: str, at: int) -> CalculatorError:
    shown = repr(character) if character.isprintable() else f"U+{ord(character):04X}"
    hint = _CHARACTER_HINTS.get(character, "")
    if not hint and character.isnumeric():
        hint = "write numbers with the digits 0-9, powers with **, and fractions with /"
    elif not hint:
        hint = "write numbers, + - * / // % **, brackets and functions such as sqrt(2)"
    return CalculatorError(f"character {at + 1} ({shown}) is not part of an expression; {hint}")


def _radix(text: str) -> int:
    base, allowed = _RADIX[text[:2].lower()]
    try:
        value = int(text, base)  # refuses misplaced underscores too
    except ValueError:
        raise CalculatorError(f"{_short(text)} is not a number; after {text[:2]} write {allowed}") from None
    if not fits(value):
        raise too_long("a number")
    return value


def _decimal(text: str, budget: Budget) -> Exact:
    """The exact value of a decimal literal, its length known before anything is computed."""
    match = _DECIMAL.fullmatch(text)
    if not match:
        raise CalculatorError(f"{_short(text)} is not a number; an underscore goes between two digits")
    whole, part, power = ((group or "").replace("_", "") for group in match.groups())
    if len(whole) > 1 and whole[0] == "0":
        plain = _short(_LEADING_ZEROS.sub("", text))
        raise CalculatorError(
            f"{_short(text)} starts with a zero, which could mean octal; write {plain} (or 0o for octal)",
            "ambiguous",
        )
    part = part.rstrip("0")
    digits = (whole + part).lstrip("0")
    if not digits:
        return 0
    places = power.lstrip("+-").lstrip("0")
    if len(places) > 6:  # not worth computing: far out of range, whatever the digits
        raise too_long("a number")
    shift = int(power or 0) - len(part)
    if len(digits) + max(shift, 0) > DIGITS_MAX or -shift > DIGITS_MAX:
        raise too_long("a number")
    budget.spend(((len(digits) + abs(shift)) // 9) ** 2)
    scale: int = 10 ** abs(shift)
    whole_digits = int(Decimal(digits))  # int(text) obeys a limit that the environment may lower
    return whole_digits * scale if shift >= 0 else kept(Fraction(whole_digits, scale))


def _short(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:20]}..."


# -- tokens to steps -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pending:
    """An operator that waits for its right-hand side."""

    step: Apply
    binds: int


@dataclass(slots=True)
class _Bracket:
    """An open bracket, of a function when it has a name."""

    function: str
    arguments: int = 0
    tight_comma: bool = False
    spaced_comma: bool = False


_BINDS = {"+": 1, "-": 1, "*": 2, "/": 2, "//": 2, "%": 2, "**": 4}
_BINDS_PREFIX = 3  # tighter than *, looser than **, so that -2**2 is -4
_WORD_HINTS = {
    "x": "for multiplication write *",
    "X": "for multiplication write *",
    "of": "for 15% of 200 write 15/100 * 200",
    "percent": "for 15 percent write 15/100",
    "mod": "for the remainder write %",
    "div": "for whole division write //",
    "i": "complex numbers are not supported",
    "j": "complex numbers are not supported",
    "inf": "infinity is not a number here",
    "nan": "there is no such number here",
}


class _Parser:
    """Reads tokens once, left to right, expecting in turn a value and what may follow one."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._steps: list[Step] = []
        self._waiting: list[_Pending | _Bracket] = []
        self._depth = 0

    def steps(self) -> list[Step]:
        if len(self._tokens) == 1:
            raise CalculatorError("the expression is empty; write for example 15 * 23")
        value_follows = True
        for at, token in enumerate(self._tokens):
            self._at = at
            value_follows = self._value(token) if value_follows else self._after_value(token)
        return self._steps

    @property
    def _before(self) -> _Token:
        return self._tokens[self._at - 1] if self._at else _Token("end", "", 0, 0)

    @property
    def _next(self) -> _Token:
        return self._tokens[min(self._at + 1, len(self._tokens) - 1)]

    # Both halves return whether a value must follow.

    def _value(self, token: _Token) -> bool:
        if token.kind == "number":
            self._steps.append(token.value)
            return False
        if token.kind == "name":
            return self._name(token)
        if token.kind == "(":
            # Before a value, the only name that can stand is a function's.
            self._open(self._before.text if self._before.kind == "name" else "")
            return True
        if token.text in ("+", "-") and not self._percent_before(token):
            self._waiting.append(_Pending(Apply(f"prefix {token.text}", 1), _BINDS_PREFIX))
            return True
        raise self._missing_value(token)

    def _after_value(self, token: _Token) -> bool:
        if token.kind == "operator":
            binds = _BINDS[token.text]
            self._settle(binds + 1 if token.text == "**" else binds)  # ** groups from the right
            self._waiting.append(_Pending(Apply(token.text, 2), binds))
        elif token.kind == ")":
            self._close(token)
        elif token.kind == ",":
            self._comma(token)
        elif token.kind == "end":
            self._settle()
            if self._waiting:
                raise CalculatorError(f"a closing bracket is missing ({self._depth} open); add )")
        else:
            raise self._side_by_side(token)
        return token.kind in ("operator", ",")

    def _name(self, token: _Token) -> bool:
        name = token.text
        if name in CONSTANTS:
            self._steps.append(Apply(name, 0))
            return False
        if name not in FUNCTIONS:
            raise _unknown(name)
        if self._next.kind != "(":
            raise CalculatorError(f"{name} needs its argument in brackets; write {name}(...)")
        return True

    def _open(self, function: str) -> None:
        self._depth += 1
        if self._depth > NESTING_MAX:
            raise CalculatorError(f"more than {NESTING_MAX} brackets inside one another; use fewer", "limit")
        self._waiting.append(_Bracket(function))

    def _settle(self, binds: int = 0) -> None:
        """Move waiting operators that bind at least so tightly to the steps, up to an open bracket."""
        while self._waiting:
            last = self._waiting[-1]
            if isinstance(last, _Bracket) or last.binds < binds:
                return
            self._steps.append(last.step)
            self._waiting.pop()

    def _innermost(self) -> _Bracket | None:
        self._settle()
        last = self._waiting[-1] if self._waiting else None
        return last if isinstance(last, _Bracket) else None

    def _comma(self, token: _Token) -> None:
        bracket = self._innermost()
        if bracket is None or not bracket.function:
            raise CalculatorError(
                f"a comma at character {token.start + 1}: write 1234 or 1_234 for one thousand, 1.5 with a"
                " decimal point; commas only separate the arguments of a function",
                "ambiguous",
            )
        bracket.arguments += 1
        before, after = self._before, self._next
        if after.start > token.end:
            bracket.spaced_comma = True
        elif _GROUP_START.fullmatch(before.text) and _GROUP_END.fullmatch(after.text):
            bracket.tight_comma = True

    def _close(self, token: _Token) -> None:
        bracket = self._innermost()
        if bracket is None:
            raise CalculatorError(f"the ) at character {token.start + 1} closes nothing; add ( before it")
        self._waiting.pop()
        self._depth -= 1
        if bracket.function:
            if bracket.tight_comma and bracket.spaced_comma:
                raise CalculatorError(
                    f"commas in {bracket.function}(...) could separate thousands or arguments; write 1234 or"
                    " 1_234 for one thousand, and a space after every comma",
                    "ambiguous",
                )
            self._call(bracket.function, bracket.arguments + 1)

    def _call(self, name: str, arguments: int) -> None:
        function = FUNCTIONS[name]
        if arguments < function.least or (function.most is not None and arguments > function.most):
            least, most = function.least, function.most
            wanted = f"at least {least}" if most is None else f"{least} to {most}" if least != most else least
            hint = "; a comma separates arguments, so write 1234 for one thousand" if arguments > 1 else ""
            raise CalculatorError(f"{name} takes {wanted} argument(s), not {arguments}{hint}")
        self._steps.append(Apply(name, arguments))

    def _percent_before(self, sign: _Token) -> bool:
        """Whether a person would read `15% + 3` here, though Python reads a remainder."""
        before = self._before
        return before.text == "%" and (sign.text == "+" or self._next.start > sign.end)

    def _missing_value(self, token: _Token) -> CalculatorError:
        before = self._before
        if before.text == "%":
            return CalculatorError("% is the remainder and needs a number after it; for 15% write 15/100", "ambiguous")
        if token.kind == "end":
            return CalculatorError(f"the expression stops after {_short(before.text)}; a value is missing")
        if token.kind == ")" and before.kind == "(":
            return CalculatorError(f"the brackets at character {token.start} are empty; write a value inside")
        return CalculatorError(f"a value is missing before {token.text} at character {token.start + 1}")

    def _side_by_side(self, token: _Token) -> CalculatorError:
        before = self._before
        left = "(...)" if before.kind == ")" else _short(before.text)
        right = "(...)" if token.kind == "(" else _short(token.text)
        hint = f"write an operator between them, for multiplication {left} * {right}"
        if token.kind == "name" and before.kind == "number":
            if token.text in ("e", "E") and token.start == before.end:
                hint = f"write {left} * e, or digits after the e as in {left}e3"
            elif token.text in _WORD_HINTS:
                hint = _WORD_HINTS[token.text]
            elif token.text.lower().strip("0123456789") == "x":
                hint = _WORD_HINTS["x"]
            elif token.text not in FUNCTIONS and token.text not in CONSTANTS:
                return _unknown(token.text)
        elif token.kind == before.kind == "number":
            hint = "write an operator between them, or one number without spaces"
        return CalculatorError(
            f"{left} and {right} stand side by side at character {token.start + 1}; {hint}", "ambiguous"
        )


def _unknown(name: str) -> CalculatorError:
    names = [*FUNCTIONS, *CONSTANTS]
    close = difflib.get_close_matches(name.lower(), names, 1) if len(name) <= 20 else []
    hint = "known are " + ", ".join(names)
    if name in _WORD_HINTS:
        hint = _WORD_HINTS[name]
    elif close:
        hint = f"did you mean {close[0]}?"
    return CalculatorError(f"{_short(name)} is not a function or constant here; {hint}", "unknown_name")
