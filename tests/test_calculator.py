"""The calculator: right on what people write, clear about what it refuses, bounded on what is hostile."""

from __future__ import annotations

import math
import operator
import os
import pickle
import re
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deadline import Deadline
from errors import AgentError, BadInput
from faults import FaultPlan, parse_fault
from guard import Guards
from retry import RetryPolicy
from tests.support import Doors
from toolbox import calculator
from toolbox.calculation.arithmetic import Arithmetic
from toolbox.calculation.limits import WORK_MAX, Budget
from toolbox.calculation.names import CONSTANTS, FUNCTIONS
from toolbox.calculation.parser import parse
from toolbox.calculator import CalculatorError, calculator_tool, evaluate, render
from tools import CallContext

THIRD = Fraction(1, 3)


def refusal(text: object) -> CalculatorError:
    with pytest.raises(CalculatorError) as caught:
        evaluate(text)  # type: ignore[arg-type]
    return caught.value


def exactly(value: object, expected: object) -> bool:
    """Equal and of the same type: 2 is not 2.0 here."""
    return type(value) is type(expected) and value == expected


# -- what people write ---------------------------------------------------------------------------

ARITHMETIC: list[tuple[str, int | Fraction]] = [
    ("15 * 23", 345),
    ("0.1 + 0.2", Fraction(3, 10)),
    ("1/3", THIRD),
    ("4/2", 2),
    ("1/3 + 1/3 + 1/3", 1),
    ("2 + 3 * 4", 14),
    ("(2 + 3) * 4", 20),
    ("10 - 4 - 3", 3),
    ("100 / 10 / 2", 5),
    ("2 * 3 % 4", 2),
    ("-2**2", -4),
    ("(-2)**2", 4),
    ("2**-1", Fraction(1, 2)),
    ("-2**-2", Fraction(-1, 4)),
    ("2**-1*3", Fraction(3, 2)),
    ("2**-3**2", Fraction(1, 512)),
    ("2**3**2", 512),
    ("2^3^2", 512),
    ("2*-3", -6),
    ("1--1", 2),
    ("-+-5", 5),
    ("- 5", -5),
    ("7 // 2", 3),
    ("-7 // 2", -4),
    ("7.5 // -2", -4),
    ("-7 % 3", 2),
    ("7 % -3", -2),
    ("7%-3", -2),
    ("-7.5 % 2", Fraction(1, 2)),
    ("1/2 % 1/3", Fraction(1, 6)),  # left to right: (0.5 % 1) / 3
    ("0**0", 1),
    ("0**5", 0),
    ("1**(10**3999)", 1),
    ("(-1)**(10**3999 + 1)", -1),
    ("12 × 4 ÷ 3 − 1 · 2", 14),
    ("2 ⋅ 3", 6),
    ("\t1\n+\r\n2\u00a0+\u202f3 ", 6),
    ("((((1))))", 1),
    ("10**3999 / 10**3998", 10),
]
LITERALS: list[tuple[str, int | Fraction]] = [
    ("1.5", Fraction(3, 2)),
    (".5", Fraction(1, 2)),
    ("5.", 5),
    ("5.e1", 50),
    ("1e3", 1000),
    ("1E+3", 1000),
    ("1.5E-3", Fraction(3, 2000)),
    ("1e05", 100000),
    ("0.007", Fraction(7, 1000)),
    ("0", 0),
    ("0.0", 0),
    ("-0.0", 0),
    ("0e999999999999", 0),
    ("1_000_000.000_5", Fraction(10_000_000_005, 10_000)),
    ("0xFF", 255),
    ("0XfF", 255),
    ("0b1010", 10),
    ("0o17", 15),
    ("0xFF_FF", 65535),
    ("0x1e3", 483),
    ("1e3999", 10**3999),
    ("1e-3999", Fraction(1, 10**3999)),
    ("1." + "0" * 5000, 1),
    ("9" * 4000, 10**4000 - 1),
]
FUNCTIONS_EXACT: list[tuple[str, int | Fraction]] = [
    ("sqrt(16)", 4),
    ("sqrt(1/4)", Fraction(1, 2)),
    ("sqrt(0.09)", Fraction(3, 10)),
    ("sqrt(10**400)", 10**200),
    ("sqrt((10**300 + 1)**2)", 10**300 + 1),
    ("sqrt(0)", 0),
    ("abs(-3.5)", Fraction(7, 2)),
    ("round(2.5)", 2),
    ("round(3.5)", 4),
    ("round(-2.5)", -2),
    ("round(2.675, 2)", Fraction(67, 25)),
    ("round(2.665, 2)", Fraction(133, 50)),
    ("round(1/3, 4)", Fraction(3333, 10_000)),
    ("round(12350, -2)", 12400),
    ("round(12450, -2)", 12400),
    ("round(7, 1000000000)", 7),
    ("round(1.5, -10**9)", 0),
    ("floor(-2.5)", -3),
    ("ceil(-2.5)", -2),
    ("trunc(-2.5)", -2),
    ("floor(pi)", 3),
    ("ceil(pi)", 4),
    ("trunc(-pi)", -3),
    ("round(pi)", 3),
    ("min(3, 1/3, 2)", THIRD),
    ("max(1,2,3)", 3),
    ("max(1,234)", 234),
    ("max(1, pi, 4)", 4),
    ("min(0.3, 1/3, pi)", Fraction(3, 10)),
    ("sum(1, 2, 3.5)", Fraction(13, 2)),
    ("pow(2, 10)", 1024),
    ("pow(2, 10, 1000)", 24),
    ("pow(3, -1, 7)", 5),
    ("exp(0)", 1),
    ("log(1)", 0),
    ("log10(1000)", 3),
    ("log10(0.001)", -3),
    ("log10(10**3999)", 3999),
    ("log2(8)", 3),
    ("log2(1/8)", -3),
    ("log(8, 2)", 3),
    ("log(8, 1/2)", -3),
    ("log(1/3**20, 3)", -20),
    ("sin(0) + tan(0) + asin(0) + atan(0) + sinh(0) + tanh(0)", 0),
    ("cos(0) + cosh(0)", 2),
    ("acos(1)", 0),
    ("atan2(0, 1)", 0),
    ("factorial(0)", 1),
    ("factorial(20)", 2432902008176640000),
    ("factorial(5.0)", 120),
    ("gcd(12, 18)", 6),
    ("gcd(-12, 0, 18)", 6),
    ("lcm(4, 6)", 12),
    ("lcm(4, 0)", 0),
    ("hypot(3, 4)", 5),
    ("hypot(2, 3, 6)", 7),
    ("degrees(0) + radians(0)", 0),
    ("sqrt(abs(min(-16, 4)))", 4),
]
FUNCTIONS_FLOAT: list[tuple[str, float]] = [
    ("pi", math.pi),
    ("π", math.pi),
    ("e", math.e),
    ("tau", math.tau),
    ("τ", math.tau),
    ("2*pi", math.tau),
    ("sqrt(2)", math.sqrt(2)),
    ("sqrt(2*10**600)", 1.4142135623730951e300),
    ("2**0.5", math.sqrt(2)),
    ("8**(1/3)", 2.0),
    ("4**0.5", 2.0),
    ("exp(1)", math.e),
    ("exp(-1)", math.exp(-1)),
    ("log(2)", math.log(2)),
    ("ln(2)", math.log(2)),
    ("log(10**3999)", 9208.03778688319),
    ("log(8, 4)", 1.5),
    ("log10(2)", math.log10(2)),
    ("sin(1)", math.sin(1)),
    ("cos(1)", math.cos(1)),
    ("tan(1)", math.tan(1)),
    ("asin(1)", math.pi / 2),
    ("acos(-1)", math.pi),
    ("acos(0.5)", 1.0471975511965979),
    ("atan(1)", math.pi / 4),
    ("atan(10**300)", math.pi / 2),
    ("atan2(1, -1)", 3 * math.pi / 4),
    ("atan2(-1, -1)", -3 * math.pi / 4),
    ("atan2(-1, 0)", -math.pi / 2),
    ("atan2(0, -1)", math.pi),
    ("sinh(1)", math.sinh(1)),
    ("cosh(1)", math.cosh(1)),
    ("tanh(1)", math.tanh(1)),
    ("tanh(1000)", 1.0),
    ("hypot(1, 1)", math.sqrt(2)),
    ("degrees(pi)", 180.0),
    ("radians(180)", math.pi),
    ("abs(-pi)", math.pi),
    ("round(pi, 2)", 3.14),
    ("round(100*pi, -2)", 300.0),
    ("pi // 1", 3.0),
    ("-pi // 1", -4.0),
    ("pi % 1", 0.14159265358979323846),
    ("-pi % 1", 0.85840734641020676154),
    ("(-pi)**3", -31.006276680299820175),
    ("pi**-2", 0.10132118364233777144),
    ("pi**0", 1.0),
]


@pytest.mark.parametrize(("text", "expected"), ARITHMETIC + LITERALS + FUNCTIONS_EXACT)
def test_exact_results_are_exact_and_whole_ones_are_integers(text: str, expected: int | Fraction) -> None:
    assert exactly(evaluate(text), expected)


@pytest.mark.parametrize(("text", "expected"), FUNCTIONS_FLOAT)
def test_irrational_results_are_the_nearest_float(text: str, expected: float) -> None:
    assert exactly(evaluate(text), expected)


def test_every_function_and_constant_is_tried_above() -> None:
    tried = {word for text, _ in [*FUNCTIONS_EXACT, *FUNCTIONS_FLOAT] for word in re.findall(r"\w+", text)}
    assert {*FUNCTIONS, *CONSTANTS} <= tried


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10**20 + pi - 10**20", math.pi),
        ("10**200 + pi - 10**200", math.pi),
        ("sqrt(10**40 + 1) - 10**20", 5e-21),
        ("sqrt(2)**2", 2.0),
        ("sin(10**22)", -0.8522008497671888),
        ("sin(10**17 + 1)", math.sin(1e17) * math.cos(1) + math.cos(1e17) * math.sin(1)),
        ("log(1 + 1e-300)", 1e-300),
        ("exp(1e-30) - 1", 1e-30),
        ("sinh(1e-300)", 1e-300),
        ("exp(-1000) * exp(1000)", 1.0),
        ("(1 + 1e-3999)**(10**3999)", math.e),
        ("1 - cos(1e-20)", 5e-41),
        ("sin(pi)", 0.0),
        ("cos(pi/2)", 0.0),
        ("tan(pi/4)", 1.0),
        ("exp(-200) - exp(-200)", 0.0),
    ],
)
def test_cancelled_digits_are_computed_and_not_lost(text: str, expected: float) -> None:
    assert evaluate(text) == pytest.approx(expected, rel=1e-15, abs=0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("floor(log(1000) / log(10))", 3),
        ("floor(sqrt(2) * sqrt(2))", 2),
        ("ceil(10 * sin(pi))", 0),
        ("round(sqrt(2)**2 / 4)", 0),  # one half, to the even side
        ("max(3, log(8)/log(2)) - 3", 0),
    ],
)
def test_a_jump_is_taken_where_the_true_value_stands(text: str, expected: int) -> None:
    assert evaluate(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(1 + 0.05/365)**3650", 1.6486648137654718),  # (1 + 1/7300)**3650
        ("1.0001**3650", 1.4404877207609195),
    ],
)
def test_daily_compound_interest_is_answered_though_its_exact_fraction_is_too_long(text: str, expected: float) -> None:
    with localcontext() as context:
        context.prec = 50
        base = Decimal(7301) / Decimal(7300) if "365)" in text else Decimal("1.0001")
        assert float(base**3650) == expected
    assert exactly(evaluate(text), expected)


# -- what is refused, and how --------------------------------------------------------------------

REFUSED = [
    ("", "syntax", "empty"),
    ("  \n", "syntax", "empty"),
    (None, "syntax", "NoneType"),
    (15, "syntax", "int"),
    (b"1+1", "syntax", "bytes"),
    ("1 +", "syntax", "stops"),
    ("* 2", "syntax", "missing before *"),
    ("2 + * 3", "syntax", "missing before *"),
    ("()", "syntax", "empty"),
    ("max()", "syntax", "empty"),
    ("(1", "syntax", "add )"),
    ("1)", "syntax", "add ("),
    ("sqrt 4", "syntax", "sqrt(...)"),
    ("sqrt", "syntax", "sqrt(...)"),
    ("sqrt(1, 2)", "syntax", "takes 1"),
    ("pow(2)", "syntax", "takes 2 to 3"),
    ("max(1,)", "syntax", "missing before )"),
    ("max(,1)", "syntax", "missing before ,"),
    ("1__0", "syntax", "underscore"),
    ("1_", "syntax", "underscore"),
    ("1_.5", "syntax", "underscore"),
    ("0xFG", "syntax", "0-9 and a-f"),
    ("0b12", "syntax", "0 and 1"),
    ("0x", "syntax", "0-9 and a-f"),
    ("0o8", "syntax", "0-7"),
    (".", "syntax", "0.5"),
    ("5!", "syntax", "factorial(5)"),
    ("5 = 5", "syntax", "equals"),
    ("1 < 2", "syntax", "comparisons"),
    ("|2|", "syntax", "abs(x)"),
    ("[1]", "syntax", "round brackets"),
    ("5 – 3", "syntax", "minus"),
    ("√2", "syntax", "sqrt"),
    ("5²", "syntax", "**"),
    ("½", "syntax", "0-9"),
    ("１＋２", "syntax", "0-9"),
    ("٣ + 1", "syntax", "0-9"),
    ("$5", "syntax", "currency"),
    ("1\x00+1", "syntax", "U+0000"),
    ("1\x1b[31m", "syntax", "U+001B"),
    ("1\u200b+1", "syntax", "U+200B"),
    ("1\u202e+1", "syntax", "U+202E"),
    ("\ud800", "syntax", "U+D800"),
    ("1,234", "ambiguous", "1_234"),
    ("1,234.5 + 1", "ambiguous", "1_234"),
    ("(1,5)", "ambiguous", "decimal point"),
    ("max(1,234, 5)", "ambiguous", "thousands"),
    ("2(3)", "ambiguous", "2 * (...)"),
    ("(2)(3)", "ambiguous", "*"),
    ("(2)3", "ambiguous", "*"),
    ("2pi", "ambiguous", "2 * pi"),
    ("2 sqrt(4)", "ambiguous", "2 * sqrt"),
    ("pi(2)", "ambiguous", "pi * (...)"),
    ("pi 2", "ambiguous", "pi * 2"),
    ("3 4", "ambiguous", "without spaces"),
    ("1\u00a0234", "ambiguous", "without spaces"),
    ("1.2.3", "ambiguous", "side by side"),
    ("1/2x", "ambiguous", "*"),
    ("15 x 23", "ambiguous", "write *"),
    ("15x23", "ambiguous", "write *"),
    ("10 mod 3", "ambiguous", "%"),
    ("2e", "ambiguous", "2 * e"),
    ("2e+", "ambiguous", "2e3"),
    ("007", "ambiguous", "write 7"),
    ("00", "ambiguous", "write 0"),
    ("00e5", "ambiguous", "write 0e5"),
    ("01.5", "ambiguous", "write 1.5"),
    ("15%", "ambiguous", "15/100"),
    ("200 * 15%", "ambiguous", "15/100"),
    ("15% + 3", "ambiguous", "15/100"),
    ("15% - 3", "ambiguous", "15/100"),
    ("15%+3", "ambiguous", "15/100"),
    ("(15%)", "ambiguous", "15/100"),
    ("15% * 3", "ambiguous", "15/100"),
    ("15% of 200", "unknown_name", "15/100 * 200"),
    ("foo(1)", "unknown_name", "foo"),
    ("Sqrt(4)", "unknown_name", "sqrt"),
    ("PI", "unknown_name", "pi"),
    ("x + 1", "unknown_name", "x"),
    ("inf", "unknown_name", "infinity"),
    ("nan", "unknown_name", "nan"),
    ("3 apples", "unknown_name", "apples"),
    ("__import__(1)", "unknown_name", "__import__"),
    ("sqrt(-1)", "domain", "negative"),
    ("(-8)**(1/3)", "domain", "negative"),
    ("(-2)**pi", "domain", "negative"),
    ("log(0)", "domain", "logarithm"),
    ("log(-1)", "domain", "logarithm"),
    ("log(2, 1)", "domain", "base 1"),
    ("log(2, -2)", "domain", "logarithm"),
    ("asin(2)", "domain", "-1 to 1"),
    ("acos(-1.0000001)", "domain", "-1 to 1"),
    ("tan(pi/2)", "domain", "right angle"),
    ("atan2(0, 0)", "domain", "atan2(0, 0)"),
    ("1/0", "domain", "zero"),
    ("1//0", "domain", "zero"),
    ("1%0", "domain", "zero"),
    ("pi/0", "domain", "zero"),
    ("1/sin(pi)", "domain", "zero"),
    ("0**-1", "domain", "zero"),
    ("0**-pi", "domain", "zero"),
    ("factorial(-1)", "domain", "not negative"),
    ("factorial(0.5)", "domain", "whole"),
    ("factorial(pi)", "domain", "whole"),
    ("gcd(1.5, 2)", "domain", "whole"),
    ("lcm(1/2)", "domain", "whole"),
    ("round(1.5, 0.5)", "domain", "whole"),
    ("pow(2, 3, 0)", "domain", "zero"),
    ("pow(2, -1, 4)", "domain", "inverse"),
    ("pow(2, 0.5, 3)", "domain", "whole"),
]


@pytest.mark.parametrize(("text", "kind", "hint"), REFUSED)
def test_a_refusal_names_its_kind_and_says_what_to_write(text: object, kind: str, hint: str) -> None:
    error = refusal(text)
    assert error.kind == kind
    assert hint in str(error)


def test_nothing_is_computed_before_the_whole_text_was_read() -> None:
    assert refusal("9**9**9**9 +").kind == "syntax"
    assert refusal("1/0 + foo").kind == "unknown_name"


def test_an_error_survives_pickling_and_is_a_value_error() -> None:
    error = pickle.loads(pickle.dumps(refusal("1/0")))
    assert isinstance(error, CalculatorError)
    assert isinstance(error, ValueError)
    assert (error.kind, str(error)) == ("domain", "division by zero")


# -- what a person reads -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (345, "345"),
        (-7, "-7"),
        (10**30, "1" + "0" * 30),
        (10**4000 - 1, "9" * 4000),
        (Fraction(3, 10), "0.3"),
        (Fraction(-1, 8), "-0.125"),
        (Fraction(4, 2), "2"),
        (Fraction(12345, 10), "1234.5"),
        (Fraction(1, 2**20), "0.00000095367431640625"),
        (Fraction(1, 10**10), "0.0000000001"),
        (Fraction(15, 10**51), "1.5e-50"),
        (Fraction(1, 10**3999), "1e-3999"),
        (THIRD, "1/3 ≈ 0.333333333333333"),
        (Fraction(-2, 3), "-2/3 ≈ -0.666666666666667"),
        (Fraction(1, 7**30), "≈ 4.43668708623631e-26"),
        (Fraction(1, 2**200), "≈ 6.22301527786114e-61"),
        (Fraction(10**40 + 1, 3), "≈ 3.33333333333333e+39"),
        (math.pi, "3.141592653589793"),
        (2.0, "2"),
        (0.1, "0.1"),
        (-0.0, "0"),
        (1e22, "1e+22"),
        (5e-324, "5e-324"),
    ],
)
def test_values_are_shown_the_way_a_person_reads_them(value: int | Fraction | float, text: str) -> None:
    assert render(value) == text


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 10**4000, Fraction(1, 10**4000)])
def test_what_is_not_a_finite_bounded_number_is_never_shown(value: float) -> None:
    with pytest.raises(CalculatorError) as caught:
        render(value)
    assert caught.value.kind == "limit"


# -- hostile input: promised under 150 ms and 64 MB ------------------------------------------------


def filled(unit: str, end: str = "1") -> str:
    return unit * ((9_990 - len(end)) // len(unit)) + end


NINES = "9" * 3_900
HOSTILE: dict[str, tuple[str, str]] = {
    # name: text, and the kind of refusal, or "value", or "any" where both are fine
    "a literal of 100,000 digits": ("9" * 100_000, "limit"),
    "a literal of 9,999 digits": ("9" * 9_999, "limit"),
    "a literal one digit too long": ("9" * 4_001, "limit"),
    "a hexadecimal literal of 9,990 digits": ("0x" + "f" * 9_990, "limit"),
    "10,000 open brackets": ("(" * 10_000, "limit"),
    "9,999 open brackets around a number": ("(" * 9_999 + "1", "limit"),
    "9,999 closing brackets": (")" * 9_999, "syntax"),
    "100 brackets": ("(" * 100 + "1" + ")" * 100, "value"),
    "101 brackets": ("(" * 101 + "1" + ")" * 101, "limit"),
    "a million characters": ("1+" * 500_000 + "1", "limit"),
    "a million spaces": (" " * 1_000_000, "limit"),
    "4,995 additions": (filled("1+"), "value"),
    "9,989 minus signs": (filled("-"), "any"),
    "powers all the way": (filled("2**"), "limit"),
    "powers of one all the way": (filled("1**"), "value"),
    "9**9**9": ("9**9**9", "limit"),
    "9**9**9**9**9": ("9**9**9**9**9", "limit"),
    "2**-999999": ("2**-999999", "limit"),
    "0.0000001**1000": ("0.0000001**1000", "limit"),
    "powers of a third": ("(((1/3)**999)**999)", "limit"),
    "a power to a huge power": ("2**(10**3999)", "limit"),
    "pi to a huge power": ("pi**(10**3999)", "limit"),
    "pi to a huge negative power": ("pi**-(10**3999)", "limit"),
    "a literal exponent of nines": ("1e999999999", "limit"),
    "a literal exponent of 5,000 nines": ("1e" + "9" * 5_000, "limit"),
    "a negative literal exponent of 5,000 nines": ("1e-" + "9" * 5_000, "limit"),
    "zero with a huge exponent": ("0e" + "9" * 5_000, "value"),
    "factorial of a million": ("factorial(10**6)", "limit"),
    "factorial of a googol": ("factorial(10**100)", "limit"),
    "factorials of factorials": ("factorial(" * 99 + "3" + ")" * 99, "limit"),
    "many factorials": (filled("factorial(1400)+"), "any"),
    "4,000 digits and one more": ("10**3999*10", "limit"),
    "many long literals": (filled("1e3999+", "0"), "any"),
    "many long fractions as literals": (filled("1.5e-3990*", "0"), "any"),
    "many long products": (filled("7**4700*", "0"), "any"),
    "many long remainders": (filled("7**4000%", "3**8000"), "any"),
    "sums of long fractions": (filled("(3**8000/7**4500)+"), "limit"),
    "remainders of long fractions": (filled("(3**8000/7**4500)%(5**3000/11**3000)+"), "limit"),
    "the harmonic series": ("+".join(f"1/{i}" for i in range(1, 1_700)), "any"),
    "a product of growing denominators": ("1/(10**3999)/10", "limit"),
    "gcd of long numbers": (f"gcd({NINES}, {NINES}7)", "value"),
    "gcd of many long numbers": ("gcd(" + filled("3**8000,") + ")", "any"),
    "lcm of the first 1,900 numbers": (f"lcm({','.join(map(str, range(1, 1_900)))})", "any"),
    "lcm that grows too long": (f"lcm({NINES}, {NINES}7)", "limit"),
    "pow modulo a long number": (f"pow({NINES}, {NINES}, {NINES}7)", "limit"),
    "pow modulo many times": (filled("pow(3,10**300,10**300+7)+"), "limit"),
    "round to a billion places": ("round(1/3, 10**9)", "limit"),
    "round to minus a billion places": ("round(1.5, -10**9)", "value"),
    "round a third to 4,000 places": ("round(1/3, 4000)", "limit"),
    "round pi to 3,000 places": ("round(pi, 3000)", "limit"),
    "many long roundings": (filled("round(1/3,3990)+"), "any"),
    "max of long fractions": ("max(" + filled("3**8000/7**4000,") + ")", "any"),
    "max of equal roots": ("max(" + filled("sqrt(2),") + ")", "any"),
    "min of equal constants": ("min(" + filled("pi,") + ")", "any"),
    "sum of many": ("sum(" + filled("1,") + ")", "value"),
    "exp of a thousand": ("exp(1000)", "limit"),
    "exp of minus a thousand": ("exp(-1000)", "limit"),
    "exp of a googol": ("exp(10**100)", "limit"),
    "exp of 4,000 digits": (f"exp({NINES})", "limit"),
    "exp 99 times": ("exp(" * 99 + "1" + ")" * 99, "limit"),
    "cosh of two thousand million": ("cosh(2*10**9)", "limit"),
    "sine of 400 digits": ("sin(10**400)", "limit"),
    "sine of exp of 1,000": ("sin(exp(1000))", "limit"),
    "sine 99 times": ("sin(" * 99 + "1" + ")" * 99, "value"),
    "root beyond every float": ("sqrt(2*10**700)", "limit"),
    "roots of roots": ("sqrt(" * 99 + "2" + ")" * 99, "value"),
    "logarithm of 4,000 digits": ("log(" + "9" * 4_000 + ")", "value"),
    "logarithm next to one": ("log(1 + 1e-3990)", "limit"),
    "logarithm to a base next to one": ("log(10**3999, 1 + 1e-3999)", "limit"),
    "arc sine of a long fraction": ("asin(1e-2500)", "limit"),
    "floor of more digits than are carried": ("floor(exp(1000))", "limit"),
    "a difference below every digit": ("10**3000 + pi - 10**3000", "limit"),
    "many sines": (filled("sin(0.3)+"), "any"),
    "many logarithms": (filled("log(7**4000)+"), "any"),
    "many powers": (filled("2**.5+"), "any"),
    "many arc tangents that end undecided": (filled("atan(0.9)+", "sin(pi)"), "any"),
    "many hyperbolic cosines": (filled("cosh(0.3)+"), "any"),
    "many remainders of pi": (filled("pi%"), "any"),
    "many products of pi": (filled("pi*"), "limit"),
    "unfinished roots": (filled("sqrt("), "limit"),
    "commas only": (filled("1,"), "ambiguous"),
    "underscores only": (filled("1_"), "any"),
    "dots only": (filled("."), "syntax"),
    "one long name": ("a" * 9_999, "unknown_name"),
    "many names": (filled("a "), "unknown_name"),
    "control characters": ("\x1b" * 9_999, "syntax"),
    "lone surrogates": ("\udcff" * 9_999, "syntax"),
    "a program": ("__import__('os').system('true')", "syntax"),
    "an attribute": ("(1).__class__", "any"),
    "a lambda": ("(lambda: 1)()", "any"),
}
TIME_PROMISED_S = 0.150


def outcome(text: str) -> str:
    try:
        value = evaluate(text)
        shown = render(value)
    except CalculatorError as refused:
        kind, message = str(refused.kind), str(refused)
    else:
        kind, message = "value", ""
    assert len(message) < 500
    if kind != "value":
        return kind
    assert math.isfinite(value) if isinstance(value, float) else len(shown) <= 4_100
    return "value"


@pytest.mark.parametrize(("text", "kind"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_ends_in_time_with_a_typed_error_or_a_finite_value(text: str, kind: str) -> None:
    taken_s = []
    for _ in range(3):  # the best of three: a busy machine is not the calculator's slowness
        began = time.thread_time()  # of this thread: what other programs do meanwhile is not its fault
        assert outcome(text) in (
            (kind,) if kind != "any" else ("value", "limit", "syntax", "ambiguous", "unknown_name")
        )
        taken_s.append(time.thread_time() - began)
        if taken_s[-1] < TIME_PROMISED_S:
            break
    assert min(taken_s) < TIME_PROMISED_S


@pytest.mark.parametrize(
    "name", ["many long products", "sums of long fractions", "the harmonic series", "max of long fractions"]
)
def test_hostile_text_stays_small_in_memory(name: str) -> None:
    tracemalloc.start()
    try:
        outcome(HOSTILE[name][0])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2**20


def test_the_same_text_gives_the_same_outcome_every_time() -> None:
    text, _ = HOSTILE["many sines"]
    assert len({outcome(text) for _ in range(3)}) == 1


def test_threads_with_their_own_decimal_settings_get_the_same_digits() -> None:
    seen = []

    def compute() -> None:
        with localcontext() as context:
            context.prec = 3
            seen.append((evaluate("exp(1) + sin(10**22)"), evaluate("1.23456789 + 1"), render(THIRD)))

    threads = [threading.Thread(target=compute) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) == {(evaluate("exp(1) + sin(10**22)"), Fraction(223456789, 10**8), "1/3 ≈ 0.333333333333333")}


def test_a_lowered_digit_limit_of_the_interpreter_changes_nothing() -> None:
    program = "from toolbox.calculator import evaluate, render;assert len(render(evaluate('9' * 3999 + '+1'))) == 4000"
    environment = {**os.environ, "PYTHONINTMAXSTRDIGITS": "640"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, cwd=Path(__file__).parent.parent)


# -- properties ----------------------------------------------------------------------------------

Tree = int | Fraction | tuple["str", "Tree"] | tuple["Tree", "str", "Tree"]

BINDS = {"+": 1, "-": 1, "*": 2, "/": 2, "//": 2, "%": 2, "neg": 3, "**": 4, "value": 5}
DIRECT: dict[str, Callable[[Fraction, Fraction], Fraction | int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}


def written(tree: Tree) -> tuple[str, int]:
    """A tree as text with no bracket too many, and how tightly its outermost part binds."""
    match tree:
        case (left, str(sign), right):
            bare_left, binds_left = written(left)
            bare_right, binds_right = written(right)
            binds = BINDS[sign]
            if binds_left < binds or (sign == "**" and binds_left == binds):
                bare_left = f"({bare_left})"
            prefixed = sign == "**" and binds_right == BINDS["neg"]
            if not prefixed and (binds_right < binds or (sign != "**" and binds_right == binds)):
                bare_right = f"({bare_right})"
            return f"{bare_left} {sign} {bare_right}", binds
        case (_, inner):
            bare, binds = written(inner)
            return f"-{bare if binds >= BINDS['neg'] else f'({bare})'}", BINDS["neg"]
        case Fraction():
            return f"{tree.numerator / 100:.2f}", BINDS["value"]
    return str(tree), BINDS["value"]


def computed(tree: Tree) -> Fraction:
    match tree:
        case (left, "**", right):
            return Fraction(computed(left) ** int(computed(right)))
        case (left, str(sign), right):
            return Fraction(DIRECT[sign](computed(left), computed(right)))
        case (_, inner):
            return -computed(inner)
        case Fraction():
            return tree / 100
    return Fraction(tree)


LEAVES = st.integers(0, 30) | st.integers(0, 9_999).map(Fraction)
EXPONENTS = st.integers(0, 3) | st.tuples(st.just("neg"), st.integers(0, 3))
TREES: st.SearchStrategy[Tree] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(list(DIRECT)), inner),
        st.tuples(inner, st.just("**"), EXPONENTS),
        st.tuples(st.just("neg"), inner),
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(TREES)
@example((("neg", 2), "**", 2))
@example(("neg", (2, "**", ("neg", 2))))
def test_any_expression_has_the_value_of_its_tree_in_fractions(tree: Tree) -> None:
    text, _ = written(tree)
    try:
        expected = computed(tree)
    except ZeroDivisionError:
        assert refusal(text).kind == "domain"
        return
    if max(abs(expected.numerator), expected.denominator) < 10**200:
        value = evaluate(text)
        assert value == expected
        assert isinstance(value, int) == (expected.denominator == 1)


PIECES = st.sampled_from(
    [*FUNCTIONS, *CONSTANTS, *"0123456789()+-*/%^,._eExX ×÷", "**", "//", "0x", "1e9", "1e-9", "10**99", "(1", ")"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=25).map("".join) | st.text(max_size=40))
def test_no_text_raises_anything_but_a_calculator_error(text: str) -> None:
    assert outcome(text)


CALLS = st.sampled_from([name for name, function in FUNCTIONS.items() if function.least == 1])
NESTED = st.recursive(
    st.sampled_from(["0", "1", "-1", "0.5", "2", "10**30", "1e-30", "pi", "e", "7/3"]),
    lambda inner: (
        st.tuples(CALLS, inner).map(lambda call: f"{call[0]}({call[1]})")
        | st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%", "**"]), inner).map(
            lambda pair: f"({pair[0]}){pair[1]}({pair[2]})"
        )
    ),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(NESTED)
def test_any_nest_of_functions_is_a_finite_value_or_a_refusal_with_a_reason(text: str) -> None:
    assert outcome(text) in ("value", "domain", "limit")


@settings(max_examples=150, deadline=None)
@given(NESTED)
def test_computing_with_far_more_digits_changes_no_answer(text: str) -> None:
    try:
        value = evaluate(text)
        precise = calculator._run(parse(text, Budget()), Arithmetic(Budget(10**10), 700, last=True))
    except CalculatorError:
        return
    assert exactly(value, precise)


@settings(max_examples=200, deadline=None)
@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**18), max_value=10**18, places=9))
def test_decimals_come_back_as_they_were_written(number: Decimal) -> None:
    value = evaluate(str(number))
    assert value == Fraction(number)
    assert isinstance(value, int | Fraction)
    assert evaluate(render(value)) == value


@settings(max_examples=200, deadline=None)
@given(st.integers(-(10**12), 10**12), st.integers(-3, 8), st.integers(0, 9))
@example(2675, 2, 3)
@example(25, 0, 1)
def test_rounding_is_half_even_on_the_exact_decimal(digits: int, places: int, shift: int) -> None:
    number = Decimal(digits).scaleb(-shift)
    expected = number.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_EVEN)
    assert evaluate(f"round({number:f}, {places})") == Fraction(expected)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 2**40), st.integers(1, 2**20))
def test_roots_are_the_float_nearest_to_the_true_root(top: int, bottom: int) -> None:
    value = evaluate(f"sqrt({top}/{bottom})")
    below, above = (Fraction(math.nextafter(float(value), way)) for way in (0.0, math.inf))
    # The true root lies between the two midpoints: squares decide it without a second root.
    low, high = (below + Fraction(value)) / 2, (above + Fraction(value)) / 2
    assert isinstance(value, int | Fraction) or low**2 <= Fraction(top, bottom) <= high**2


SMOOTH = ["exp", "sin", "cos", "tan", "atan", "sinh", "cosh", "tanh"]
BETWEEN_ONES = ["asin", "acos"]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SMOOTH + BETWEEN_ONES + ["log", "log2", "log10"]), st.integers(1, 2**10 - 1), st.integers(0, 20))
def test_functions_agree_with_the_platform_where_that_is_exact_enough(name: str, top: int, bits: int) -> None:
    # Halves, quarters and so on are exact as floats, so both sides start from the same number.
    bits = max(bits, 10) if name in BETWEEN_ONES else max(bits, 4)
    expected = getattr(math, name)(top / 2**bits)
    assert evaluate(f"{name}({top}/2**{bits})") == pytest.approx(expected, rel=4e-16 * 4, abs=1e-300)


@settings(max_examples=200, deadline=None)
@given(st.integers(-(10**30), 10**30), st.integers(1, 10**6))
def test_fractions_are_shown_correctly_rounded(top: int, bottom: int) -> None:
    value = Fraction(top, bottom)
    shown = render(value).rpartition("≈")[2].strip()
    with localcontext() as context:
        context.prec = 15
        nearest = Decimal(value.numerator) / Decimal(value.denominator)
    assert Fraction(shown) == value or Decimal(shown) == nearest


# --- the tool ----------------------------------------------------------------------------------------------


def answer_of(doors: Doors, expression: str, *faults: str) -> tuple[str, int]:
    """What the tool says, and how many tries it took."""
    guards = Guards(now=lambda: 0.0, draws=lambda _: lambda: 0.5, retry=RetryPolicy(base_delay_s=0.001))
    tool = calculator_tool(guards, FaultPlan([parse_fault(fault) for fault in faults]))
    context = CallContext("call", Deadline.after(0.0, 10.0))
    return doors.run(tool.run(context, {"expression": expression})).text, context.tries


@pytest.mark.parametrize(
    ("expression", "answer"),
    [("15 * 23", "345"), ("1/3", "1/3 ≈ 0.333333333333333"), ("sqrt(2)", "1.4142135623730951")],
)
def test_the_tool_tells_a_result_that_comes_out_twice(doors: Doors, expression: str, answer: str) -> None:
    assert answer_of(doors, expression) == (answer, 1)
    assert answer_of(doors, expression, "calculator:wrong*1") == (answer, 2)
    with pytest.raises(AgentError, match="different results") as caught:
        answer_of(doors, expression, "calculator:wrong")
    assert caught.value.reason == "protocol"


@pytest.mark.parametrize("expression", ["1/0", "2 +", "9**9**9"])
def test_what_has_no_answer_is_no_lie_and_goes_back_to_the_model(doors: Doors, expression: str) -> None:
    with pytest.raises(BadInput):
        answer_of(doors, expression, "calculator:wrong")


def test_a_result_that_is_too_dear_to_work_out_again_is_told_as_that() -> None:
    expression = "+".join(["sin(1)"] * 250)
    with pytest.raises(CalculatorError, match="too much work"):
        calculator._evaluate(expression, Budget(WORK_MAX // 2))
    text, _ = answer_of(Doors("virtual"), expression)
    assert text == f"{render(evaluate(expression))} (too much work to be checked by a second calculation)"
