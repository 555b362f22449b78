"""Works out an arithmetic expression the way a careful person would, or says why it cannot (floor 4).

Our own parser, because every shortcut is worse: `eval` runs programs, and the libraries hang on
`9**9**9`. `calculation.parser` reads the whole text before anything is computed; `calculation.arithmetic`
knows the operations; `calculation.reals` the irrational numbers; `calculation.limits` what it may cost.

Decimals are exact: `0.1 + 0.2` is 3/10. Only irrational results are floats, each the one nearest to the
true value, not the sum of roundings on the way. Where that cannot be promised there is an error.

It deliberately has no variables, comparisons, complex numbers, units or implicit multiplication.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal, Inexact
from fractions import Fraction
from typing import Any

from errors import BadInput
from faults import FaultPlan
from flow import Flow, blocking
from guard import Guards, injecting
from toolbox.calculation.arithmetic import Arithmetic, Number
from toolbox.calculation.limits import Budget, CalculatorError, fits, too_long
from toolbox.calculation.names import OPERATIONS
from toolbox.calculation.parser import Apply, Step, parse
from toolbox.calculation.reals import Unsure
from tools import CallContext, Tool, ToolOutput

__all__ = ["CalculatorError", "calculator_tool", "evaluate", "render"]

# A float has 17 digits, so sixty leave forty to lose; what needs more gets four hundred, once:
# enough to see below the smallest float after losing seventy.
_DIGITS_FIRST, _DIGITS_LAST = 60, 400

# Fifteen digits survive in any float. A terminating decimal is shown to its end up to this many.
_DIGITS_SHOWN = 15
_DIGITS_TERMINATING_MAX = 30
# Longest numerator or denominator that still helps a reader.
_FRACTION_SHOWN_MAX = 10**6
# Sizes (powers of ten) written without an exponent, as in 0.0000000001 and Python's 1e16.
_PLAIN_MIN, _PLAIN_MAX = -10, 20


def evaluate(expression: str) -> int | Fraction | float:
    """The value of an arithmetic expression: exact where it can be, else the nearest float.

    Raises `CalculatorError` for everything that has no answer, and nothing else; never returns an
    infinity or NaN. Time and memory are bounded whatever the text (see `calculation.limits`).
    """
    if not isinstance(expression, str):
        raise CalculatorError(f'an expression is text, not {type(expression).__name__}; write "2 + 3"')
    budget = Budget()
    steps = parse(expression, budget)
    try:
        return _run(steps, Arithmetic(budget, _DIGITS_FIRST, last=False))
    except Unsure:
        return _run(steps, Arithmetic(budget, _DIGITS_LAST, last=True))


def render(value: int | Fraction | float) -> str:
    """The text a person should read: `345`, `0.3`, `1/3 ≈ 0.333333333333333`.

    Integers and short decimals come in full, other fractions rounded to 15 digits (half-even) after
    `≈`, floats with the digits that tell them apart. Raises `CalculatorError` for infinities, NaN and
    numbers longer than the calculator makes.
    """
    if isinstance(value, float):
        return _float_text(value)
    if not fits(value):
        raise too_long()
    if value.denominator != 1:
        return _fraction_text(Fraction(value))
    return f"{Decimal(value.numerator):f}"  # str(int) obeys a limit that the environment may lower


def _run(steps: list[Step], arithmetic: Arithmetic) -> int | Fraction | float:
    stack: list[Number] = []
    for step in steps:
        if isinstance(step, Apply):
            first = len(stack) - step.arguments
            stack[first:] = [arithmetic.apply(OPERATIONS[step.name], stack[first:])]
        else:
            stack.append(step)
    return arithmetic.finish(stack.pop())


def _float_text(value: float) -> str:
    if not math.isfinite(value):
        raise CalculatorError("the result is not a finite number", "limit")
    text = repr(value + 0.0)  # adding zero turns -0.0 into 0.0
    return text.removesuffix(".0")


def _fraction_text(value: Fraction) -> str:
    exact = _terminating(value)
    if exact is not None:
        return _decimal_text(exact)
    shown = Context(prec=_DIGITS_SHOWN, rounding=ROUND_HALF_EVEN)
    nearest = _decimal_text(shown.divide(Decimal(value.numerator), Decimal(value.denominator)))
    if max(abs(value.numerator), value.denominator) < _FRACTION_SHOWN_MAX:
        return f"{value} ≈ {nearest}"
    return f"≈ {nearest}"


def _terminating(value: Fraction) -> Decimal | None:
    """The value as a decimal if that ends soon enough to be read."""
    exact = Context(prec=_DIGITS_TERMINATING_MAX)
    exact.clear_flags()
    quotient = exact.divide(Decimal(value.numerator), Decimal(value.denominator))
    return None if exact.flags[Inexact] else quotient


def _decimal_text(value: Decimal) -> str:
    if _PLAIN_MIN <= value.adjusted() <= _PLAIN_MAX:
        text = f"{value:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa, _, exponent = f"{value:e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{exponent}"


# --- the tool -------------------------------------------------------------------------------------------


def calculator_tool(guards: Guards, plan: FaultPlan) -> Tool:
    """`calculator(expression)`: critical, since a wrong or invented number is worse than none."""
    guard = guards("calculator")

    def run(context: CallContext, given: Mapping[str, Any]) -> Flow[ToolOutput]:
        def once(number: int) -> Flow[str]:
            context.tried()
            return injecting(blocking(lambda gate: _answer(given["expression"])), plan, guard.name)

        limit_s = context.deadline.left_s(guard.now())
        text = yield from guard.guarding(once, deadline=context.deadline, attempt_s=limit_s)
        return ToolOutput(text)

    schema = {
        "type": "object",
        "properties": {"expression": {"type": "string", "minLength": 1, "description": "e.g. (3 + 4) * sqrt(2)"}},
        "required": ["expression"],
        "additionalProperties": False,
    }
    description = (
        "Work out an arithmetic expression exactly. Knows + - * / // % ** ( ), sqrt, round, min, max, log, sin, "
        "factorial, gcd and the like, and pi, e, tau. Write multiplication with *."
    )
    return Tool("calculator", description, schema, run, critical=True)


def _answer(expression: str) -> str:
    try:
        return render(evaluate(expression))
    except CalculatorError as error:
        raise BadInput(str(error)) from None
