"""The operators, functions and constants a person can write, and what each stands for (floor 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from toolbox.calculation.arithmetic import Arithmetic, Number


@dataclass(frozen=True, slots=True)
class Function:
    """A function a person can call: its operation and how many arguments it takes (`most` None: any)."""

    operation: Callable[..., Number]
    least: int = 1
    most: int | None = 1


FUNCTIONS: dict[str, Function] = {
    "abs": Function(Arithmetic.absolute),
    "acos": Function(Arithmetic.acos),
    "asin": Function(Arithmetic.asin),
    "atan": Function(Arithmetic.atan),
    "atan2": Function(Arithmetic.atan2, 2, 2),
    "ceil": Function(Arithmetic.ceil),
    "cos": Function(Arithmetic.cos),
    "cosh": Function(Arithmetic.cosh),
    "degrees": Function(Arithmetic.degrees),
    "exp": Function(Arithmetic.exp),
    "factorial": Function(Arithmetic.factorial),
    "floor": Function(Arithmetic.floor),
    "gcd": Function(Arithmetic.gcd, 1, None),
    "hypot": Function(Arithmetic.hypot, 1, None),
    "lcm": Function(Arithmetic.lcm, 1, None),
    "ln": Function(Arithmetic.log),
    "log": Function(Arithmetic.log, 1, 2),
    "log10": Function(Arithmetic.log10),
    "log2": Function(Arithmetic.log2),
    "max": Function(Arithmetic.greatest, 1, None),
    "min": Function(Arithmetic.least, 1, None),
    "pow": Function(Arithmetic.power, 2, 3),
    "radians": Function(Arithmetic.radians),
    "round": Function(Arithmetic.rounded, 1, 2),
    "sin": Function(Arithmetic.sin),
    "sinh": Function(Arithmetic.sinh),
    "sqrt": Function(Arithmetic.sqrt),
    "sum": Function(Arithmetic.total, 1, None),
    "tan": Function(Arithmetic.tan),
    "tanh": Function(Arithmetic.tanh),
    "trunc": Function(Arithmetic.trunc),
}

CONSTANTS: dict[str, Callable[[Arithmetic], Number]] = {
    "pi": Arithmetic.pi,
    "π": Arithmetic.pi,
    "e": Arithmetic.e,
    "tau": Arithmetic.tau,
    "τ": Arithmetic.tau,
}

OPERATIONS: dict[str, Callable[..., Number]] = {
    "+": Arithmetic.add,
    "-": Arithmetic.subtract,
    "*": Arithmetic.multiply,
    "/": Arithmetic.divide,
    "//": Arithmetic.floor_divide,
    "%": Arithmetic.remainder,
    "**": Arithmetic.power,
    "prefix +": Arithmetic.positive,
    "prefix -": Arithmetic.negative,
    **{name: function.operation for name, function in FUNCTIONS.items()},
    **CONSTANTS,
}
