"""Turns a sum said in words, symbols or both into an expression for the calculator (floor 4).

"half of 90 plus seven" becomes `90 / 2 + 7`. `wording` gives every word its meaning; a small precedence
parser puts them together and sets brackets where, and only where, they are needed. "it" and "that" stand
for the last result and stay in the expression as `it` until `fill`.

It deliberately calculates nothing: right or wrong is the calculator's business, and so is refusing what
is too large. A phrase that is not wholly a sum is none (`None`), rather than half understood.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from models.practice.wording import Token, tokens

LAST = "it"  # stands for the last result in an expression
_DEPTH_MAX = 40  # brackets within brackets; keeps the recursion far from Python's limit

# How tightly the outermost operation of a term binds.
_SUM, _PRODUCT, _SIGN, _POWER, _ATOM = range(1, 6)
_INFIX = {
    "+": (_SUM, "+"),
    "-": (_SUM, "-"),
    "*": (_PRODUCT, "*"),
    "/": (_PRODUCT, "/"),
    "of": (_PRODUCT, "*"),
    "mod": (_PRODUCT, "%"),
    "%": (_PRODUCT, "%"),
    "pow": (_POWER, "**"),
}
_OPERANDS = {"number", "constant", "function", "last", "("}


@dataclass(frozen=True, slots=True)
class Term:
    """A piece of an expression, how tightly it holds together, and whether it was said as a percentage."""

    text: str
    rank: int = _ATOM
    percent: bool = False

    def within(self, rank: int) -> str:
        """Its text where something of this rank is wanted, bracketed when it binds less tightly."""
        return self.text if self.rank >= rank else f"({self.text})"


def translate(phrase: str) -> str | None:
    """The calculator expression for a phrase that is a sum from end to end, else None.

    The last result stands in it as `it` (see `uses_last`); a phrase without any operation is no sum.
    """
    words = tokens(phrase)
    if not words:
        return None
    parser = _Parser(words)
    try:
        term = parser.phrase()
    except _NoSum:
        return None
    return term.text if parser.operations else None


def uses_last(expression: str) -> bool:
    """Whether the expression needs the last result."""
    return re.search(rf"\b{LAST}\b", expression) is not None


def fill(expression: str, value: str) -> str:
    """The expression with the last result put in."""
    atom = value if re.fullmatch(r"\d+(?:\.\d+)?", value) else f"({value})"
    return re.sub(rf"\b{LAST}\b", lambda _: atom, expression)


def _join(left: Term, sign: str, right: Term, rank: int) -> Term:
    """`left sign right`; "80 + 15 percent" means what people mean by it, 80 and 15 percent of 80 more."""
    if rank == _SUM and right.percent and not left.percent:
        return Term(f"{left.within(_PRODUCT)} * (1 {sign} {right.text})", _PRODUCT)
    if rank == _POWER:
        return Term(f"{left.within(_ATOM)} ** {right.within(_ATOM)}", _POWER)
    return Term(f"{left.within(rank)} {sign} {right.within(rank + 1)}", rank)


def _chain(sign: str, rank: int, items: list[Term]) -> Term:
    term = items[0]
    for item in items[1:]:
        term = _join(term, sign, item, rank)
    return term


def _mean(items: list[Term]) -> Term:
    return _join(_chain("+", _SUM, items), "/", Term(str(len(items))), _PRODUCT)


def _call(name: str) -> Callable[[Term], Term]:
    return lambda operand: Term(f"{name}({operand.text})")


def _with(sign: str, amount: str, rank: int) -> Callable[[Term], Term]:
    return lambda operand: _join(operand, sign, Term(amount), rank)


# What comes before, or after, a single operand.
_UNARY: dict[str, Callable[[Term], Term]] = {
    "sqrt_of": _call("sqrt"),
    "cbrt_of": lambda operand: Term(f"{operand.within(_ATOM)} ** (1 / 3)", _POWER),
    "factorial_of": _call("factorial"),
    "abs_of": _call("abs"),
    "square_of": _with("**", "2", _POWER),
    "cube_of": _with("**", "3", _POWER),
    "half_of": _with("/", "2", _PRODUCT),
    "third_of": _with("/", "3", _PRODUCT),
    "quarter_of": _with("/", "4", _PRODUCT),
    "double_of": _with("*", "2", _PRODUCT),
    "triple_of": _with("*", "3", _PRODUCT),
}
_POSTFIX: dict[str, Callable[[Term], Term]] = {
    "squared": _with("**", "2", _POWER),
    "cubed": _with("**", "3", _POWER),
    "!": _call("factorial"),
}
# What takes a list ("sum of 1, 2 and 3"), and how many items at least and at most.
_LISTS: dict[str, tuple[Callable[[list[Term]], Term], int, int]] = {
    "sum_of": (lambda items: _chain("+", _SUM, items), 2, 100),
    "product_of": (lambda items: _chain("*", _PRODUCT, items), 2, 100),
    "difference_of": (lambda items: _chain("-", _SUM, items), 2, 2),
    "quotient_of": (lambda items: _chain("/", _PRODUCT, items), 2, 2),
    "mean_of": (_mean, 1, 100),
}


class _NoSum(Exception):
    """Carries "this is no sum" out of the parser to `translate`, and no further."""


class _Parser:
    """Recursive descent; what lacks its first operand ("plus 5", "double") goes on from the last result."""

    def __init__(self, words: list[Token]) -> None:
        self._words = words
        self._place = 0
        self._depth = 0
        self.operations = 0

    def phrase(self) -> Term:
        """The whole phrase as one term; raises _NoSum when it is not a sum to its end."""
        first = self._words[0]
        goes_on = (
            first.kind in (*_INFIX, "squared", "cubed") and first.kind not in ("of", "%") and first.text not in "-−–"
        )
        # "minus 5" alone goes on from the last result; "minus 5 plus 8" is a sum of its own.
        if first.kind == "-" and any(word.kind in _INFIX for word in self._words[1:]):
            goes_on = False
        term = self._infix(_SUM, self._postfix(Term(LAST)) if goes_on else None)
        if self._peek():
            raise _NoSum
        return term

    def _peek(self, ahead: int = 0) -> str:
        place = self._place + ahead
        return self._words[place].kind if place < len(self._words) else ""

    def _take(self, *kinds: str) -> Token | None:
        if self._peek() not in kinds:
            return None
        self._place += 1
        return self._words[self._place - 1]

    def _infix(self, rank_min: int, left: Term | None = None) -> Term:
        left = self._prefix() if left is None else left
        while True:
            kind = self._peek()
            if kind in ("add_more", "sub_less") and rank_min <= _SUM:  # "5 less than 20"
                self._place += 1
                left = self._did(_join(self._infix(_PRODUCT), "+" if kind == "add_more" else "-", left, _SUM))
                continue
            rank, sign = _INFIX.get(kind, (0, ""))
            if rank < rank_min:
                return left
            self._place += 1
            right = self._infix(rank if rank == _POWER else rank + 1)
            left = self._did(_join(left, sign, right, rank))

    def _prefix(self) -> Term:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise _NoSum
        term = self._operand()
        self._depth -= 1
        return term

    def _operand(self) -> Term:
        kind = self._peek()
        if self._take("-", "negative"):
            return Term(f"-{self._infix(_POWER).within(_POWER)}", _SIGN)
        if kind in _UNARY:
            self._place += 1
            operand = self._prefix() if self._peek() else Term(LAST)
            return self._did(_UNARY[kind](operand))
        if kind in _LISTS:
            return self._list(*_LISTS[kind])
        if kind in ("subtract", "increase", "decrease"):
            return self._change(kind)
        self._take("raise")  # "raise 2 to the power of 10" says the operation later
        return self._postfix(self._primary())

    def _list(self, build: Callable[[list[Term]], Term], least: int, most: int) -> Term:
        self._place += 1
        items = [] if self._peek() == "by" else [self._infix(_SUM)]
        if items and self._take("to"):  # "add 5 to 10"
            return self._did(build([self._infix(_SUM), *items]))
        while self._peek() in (",", "and", "by"):
            comma = self._take(",")
            joined = self._take("and", "by")
            if comma and not joined and self._peek() in _INFIX:  # "the sum of 3 and 4, times 2"
                break
            items.append(self._infix(_SUM))
        if len(items) == 1 and least == 2:  # "add 10", "divide by 4"
            items.insert(0, Term(LAST))
        if not least <= len(items) <= most:
            raise _NoSum
        return self._did(build(items))

    def _change(self, kind: str) -> Term:
        """A change of something: "subtract 3 from 10", "increase 80 by 15 percent", "subtract 3"."""
        self._place += 1
        first = Term(LAST) if self._peek() == "by" else self._infix(_SUM)
        if kind == "subtract":
            whole = self._infix(_SUM) if self._take("from") else Term(LAST)
            return self._did(_join(whole, "-", first, _SUM))
        if not self._take("by"):
            raise _NoSum
        return self._did(_join(first, "+" if kind == "increase" else "-", self._infix(_SUM), _SUM))

    def _primary(self) -> Term:
        if self._take("last"):
            return Term(LAST)
        if word := self._take("number", "constant"):
            return Term(word.text)
        if word := self._take("function"):
            return self._did(Term(f"{word.text}({', '.join(term.text for term in self._bracketed())})"))
        inner = self._bracketed()
        if len(inner) != 1:
            raise _NoSum
        return inner[0]

    def _bracketed(self) -> list[Term]:
        if not self._take("("):
            raise _NoSum
        terms = [self._infix(_SUM)]
        while self._take(","):
            terms.append(self._infix(_SUM))
        if not self._take(")"):
            raise _NoSum
        return terms

    def _postfix(self, term: Term) -> Term:
        while True:
            kind = self._peek()
            if kind in _POSTFIX:
                self._place += 1
                term = self._did(_POSTFIX[kind](term))
            elif kind == "%" and self._peek(1) not in _OPERANDS:  # but 20 % 3 is a remainder
                self._place += 1
                term = self._did(self._percent(term))
            else:
                return term

    def _percent(self, term: Term) -> Term:
        part = Term(f"{term.within(_PRODUCT)} / 100", _PRODUCT, percent=True)
        if self._take("of"):
            return _join(Term(part.text, _PRODUCT), "*", self._prefix(), _PRODUCT)
        if self._take("off"):
            return _join(self._prefix(), "-", part, _SUM)
        return part

    def _did(self, term: Term) -> Term:
        self.operations += 1
        return term
