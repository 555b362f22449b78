"""Works out an arithmetic expression the way a careful person would, or says why it cannot (floor 4).

Our own parser, because every shortcut is worse: `eval` runs programs, and the libraries hang on
`9**9**9`. `calculation.parser` reads the whole text before anything is computed; `calculation.arithmetic`
knows the operations; `calculation.reals` the irrational numbers; `calculation.limits` what it may cost.

Decimals are exact: `0.1 + 0.2` is 3/10. Only irrational results are floats, each the one nearest to the
true value, not the sum of roundings on the way. Where that cannot be promised there is an error.

A result is told only when working it out once more, from the text on, gives the same: memory and a
lying fault can change a number, and nobody would notice.

It deliberately has no variables, comparisons, complex numbers, units or implicit multiplication.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal, Inexact
from fractions import Fraction
from typing import Any

from errors import AgentError, BadInput
from fault_injection import Lie
from faults import FaultPlan
from flow import Flow, blocking
from guard import Guards, injecting
from toolbox.calculation.arithmetic import Arithmetic, Number
from toolbox.calculation.limits import WORK_MAX, Budget, CalculatorError, fits, too_long
from toolbox.calculation.names import OPERATIONS
from toolbox.calculation.parser import Apply, Step, parse
from toolbox.calculation.reals import Unsure
from toolbox.lies import in_the_answer, wrong_number
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
    return _evaluate(expression, Budget())


def _evaluate(expression: str, budget: Budget) -> int | Fraction | float:
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
        expression = given["expression"]
        lies: dict[str, Lie[int | Fraction | float]] = {"wrong": in_the_answer(wrong_number)}

        def once(number: int) -> Flow[str]:
            context.tried()
            value = yield from injecting(blocking(lambda gate: _value(expression)), plan, guard.name, lies)
            return (yield from blocking(lambda gate: _confirmed(expression, value)))

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
    return Tool("calculator", description, schema, run, critical=True, lies=("wrong",))


def _value(expression: str) -> int | Fraction | float:
    try:
        return evaluate(expression)
    except CalculatorError as error:
        raise BadInput(str(error)) from None


def _confirmed(expression: str, value: int | Fraction | float) -> str:
    """The result in words. AgentError (`protocol`) when it does not come out again."""
    unchecked = ""
    try:
        # Half the work, so that both together stay within what one calculation may take.
        again = _evaluate(expression, Budget(WORK_MAX // 2))
    except CalculatorError:
        again, unchecked = value, " (too much work to be checked by a second calculation)"
    if (type(again), again) != (type(value), value):
        raise AgentError("two calculations of the same expression gave different results", reason="protocol")
    try:
        return f"{render(value)}{unchecked}"
    except CalculatorError as error:
        raise BadInput(str(error)) from None
