"""What the calculator can do with numbers, exactly where that is possible (floor 4).

Three kinds of number: integers and fractions are exact and stay so as long as the operation allows; the
rest are `Real`s. One `Arithmetic` serves one pass over an expression: it pays for each operation out
of the budget before doing it, keeps exact what is exact (`sqrt(1/4)`, `log10(1000)`), and refuses what
has no real value. Division, remainder, power and rounding follow Python: floor division, `0**0 == 1`,
halves to even. One rule is our own: a fraction raised to so high a power that it could not be written
out is computed as a Real, because people do compound interest daily.

It deliberately has no complex numbers (`sqrt(-1)` is an error) and no random ones.
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable, Sequence
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from fractions import Fraction

from toolbox.calculation.limits import (
    DIGITS_MAX,
    STEP_WORK,
    Budget,
    CalculatorError,
    Exact,
    fits,
    kept,
    too_long,
    words,
)
from toolbox.calculation.reals import Real, Reals

Number = int | Fraction | Real

# An elementary function at 60 digits; at 400 the same takes some seventeen times as long.
_FUNCTION_WORK = 100_000
_FUNCTION_DIGITS = 60
# What an operator costs on short fractions, and on Reals, more than on short integers.
_FRACTION_WORK = 6_000
_REAL_WORK = 8_000
# 1500! has 4,115 digits.
_FACTORIAL_MAX = 1_500
_BITS_MAX = DIGITS_MAX * 3_322 // 1_000 + 1  # log2(10) is 3.3219


class Arithmetic:
    """The operations of one pass over an expression, at a given number of digits for Reals."""

    def __init__(self, budget: Budget, digits: int, last: bool) -> None:
        self._budget = budget
        self._reals = Reals(digits, last)
        self._function_work = int(_FUNCTION_WORK * (digits / _FUNCTION_DIGITS) ** 1.5)

    def apply(self, operation: Callable[..., Number], arguments: Sequence[Number]) -> Number:
        """Do one of the operations below; raises `CalculatorError`, or `Unsure`."""
        self._budget.spend(STEP_WORK * (1 + len(arguments)))
        try:
            return operation(self, *arguments)
        except decimal.Overflow:
            raise CalculatorError("a step gives a number too large to compute with", "limit") from None
        except decimal.Underflow:
            raise CalculatorError("a step gives a number too close to zero to compute with", "limit") from None

    def finish(self, value: Number) -> int | Fraction | float:
        """What the person gets: exact numbers as they are, a Real as its nearest float."""
        return self._reals.to_float(value) if isinstance(value, Real) else value

    # -- operators -------------------------------------------------------------------------------

    def add(self, a: Number, b: Number) -> Number:
        if isinstance(a, Real) or isinstance(b, Real):
            return self._reals.add(*self._pair(a, b))
        self._pay(a, b)
        return kept(a + b)

    def subtract(self, a: Number, b: Number) -> Number:
        return self.add(a, self.negative(b))

    def negative(self, a: Number) -> Number:
        return self._reals.negative(a) if isinstance(a, Real) else -a

    def positive(self, a: Number) -> Number:
        return a

    def multiply(self, a: Number, b: Number) -> Number:
        if isinstance(a, Real) or isinstance(b, Real):
            return self._reals.multiply(*self._pair(a, b))
        self._pay(a, b)
        return kept(a * b)

    def divide(self, a: Number, b: Number) -> Number:
        self._refuse_zero(b, "division by zero")
        if isinstance(a, Real) or isinstance(b, Real):
            return self._reals.divide(*self._pair(a, b))
        self._pay(a, b)
        return kept(Fraction(a, b))

    def floor_divide(self, a: Number, b: Number) -> Number:
        self._refuse_zero(b, "division by zero")
        if isinstance(a, Real) or isinstance(b, Real):
            quotient = self._reals.whole(self._reals.divide(*self._pair(a, b)), ROUND_FLOOR)
            return Real(Decimal(quotient), Decimal(0))
        self._pay(a, b)
        return kept(a // b)

    def remainder(self, a: Number, b: Number) -> Number:
        self._refuse_zero(b, "remainder of a division by zero")
        if isinstance(a, Real) or isinstance(b, Real):
            return self.subtract(a, self.multiply(b, self.floor_divide(a, b)))
        self._pay(a, b)
        return kept(a % b)

    def power(self, base: Number, exponent: Number, modulus: Number | None = None) -> Number:
        if modulus is not None:
            return self._modular_power(base, exponent, modulus)
        if isinstance(exponent, int):
            if isinstance(base, Real):
                return self._real_to_whole(base, exponent)
            return self._exact_power(base, exponent)
        sign = self._sign(base)
        if sign < 0:
            raise CalculatorError("a negative number to a power that is not a whole number has no real value", "domain")
        if sign == 0:
            return self._zero_to(self._sign(exponent))
        return self.exp(self.multiply(exponent, self.log(base)))

    # -- roots, exponentials, logarithms ------------------------------------------------------------

    def sqrt(self, a: Number) -> Number:
        sign = self._sign(a)
        if sign < 0:
            raise CalculatorError("the square root of a negative number has no real value", "domain")
        if sign == 0:
            return 0
        self._pay_function(a)
        if not isinstance(a, Real):
            top, bottom = math.isqrt(a.numerator), math.isqrt(a.denominator)
            if top * top == a.numerator and bottom * bottom == a.denominator:
                return kept(Fraction(top, bottom))
        return self._reals.sqrt(self._real(a))

    def hypot(self, *sides: Number) -> Number:
        return self.sqrt(self.total(*(self.multiply(side, side) for side in sides)))

    def exp(self, a: Number) -> Number:
        if a == 0:
            return 1
        self._pay_function(a)
        return self._reals.exp(self._real(a))

    def log(self, a: Number, base: Number | None = None) -> Number:
        if self._sign(a) <= 0:
            raise CalculatorError("the logarithm of zero or a negative number has no real value", "domain")
        if base is not None:
            return self._log_to_base(a, base)
        if a == 1:
            return 0
        self._pay_function(a)
        if not isinstance(a, Real) and Fraction(9, 10) < a < Fraction(11, 10):
            # Near 1 the digits that matter are those of the difference, kept exact this way.
            half = self._reals.artanh(self._reals.of(Fraction(a - 1, a + 1)))
            return self._reals.add(half, half)
        return self._reals.ln(self._real(a))

    def log2(self, a: Number) -> Number:
        return self.log(a, 2)

    def log10(self, a: Number) -> Number:
        return self.log(a, 10)

    # -- angles ----------------------------------------------------------------------------------

    def pi(self) -> Number:
        return self._reals.pi()

    def tau(self) -> Number:
        return self.multiply(2, self.pi())

    def e(self) -> Number:
        return self.exp(1)

    def sin(self, a: Number) -> Number:
        return 0 if a == 0 else self._sin_cos(a)[0]

    def cos(self, a: Number) -> Number:
        return 1 if a == 0 else self._sin_cos(a)[1]

    def tan(self, a: Number) -> Number:
        if a == 0:
            return 0
        sine, cosine = self._sin_cos(a)
        self._refuse_zero(cosine, "the tangent of a right angle has no value")
        return self._reals.divide(sine, cosine)

    def asin(self, a: Number) -> Number:
        rest = self._one_minus_square(a, "asin")
        return self.atan2(a, self.sqrt(rest))

    def acos(self, a: Number) -> Number:
        rest = self._one_minus_square(a, "acos")
        return self.atan2(self.sqrt(rest), a)

    def atan(self, a: Number) -> Number:
        if a == 0:
            return 0
        self._pay_function(a)
        return self._reals.atan(self._real(a))

    def atan2(self, y: Number, x: Number) -> Number:
        up, right = self._sign(y), self._sign(x)
        if right == 0:
            if up == 0:
                raise CalculatorError("atan2(0, 0) has no value: a point has no direction", "domain")
            return self.multiply(Fraction(up, 2), self.pi())
        angle = self.atan(self.divide(y, x))
        return angle if right > 0 else self.add(angle, self.multiply(-1 if up < 0 else 1, self.pi()))

    def degrees(self, a: Number) -> Number:
        return 0 if a == 0 else self.divide(self.multiply(a, 180), self.pi())

    def radians(self, a: Number) -> Number:
        return 0 if a == 0 else self.multiply(self.divide(a, 180), self.pi())

    def sinh(self, a: Number) -> Number:
        if a == 0:
            return 0
        self._pay_function(a, times=2)
        return self._reals.sinh(self._real(a))

    def cosh(self, a: Number) -> Number:
        if a == 0:
            return 1
        self._pay_function(a, times=2)
        return self._reals.cosh(self._real(a))

    def tanh(self, a: Number) -> Number:
        return self.divide(self.sinh(a), self.cosh(a))

    # -- rounding and comparing ------------------------------------------------------------------

    def absolute(self, a: Number) -> Number:
        return self.negative(a) if self._sign(a) < 0 else a

    def floor(self, a: Number) -> Number:
        return self._reals.whole(a, ROUND_FLOOR) if isinstance(a, Real) else math.floor(a)

    def ceil(self, a: Number) -> Number:
        return self._reals.whole(a, ROUND_CEILING) if isinstance(a, Real) else math.ceil(a)

    def trunc(self, a: Number) -> Number:
        return self._reals.whole(a, ROUND_DOWN) if isinstance(a, Real) else math.trunc(a)

    def rounded(self, a: Number, places: Number = 0) -> Number:
        """Half-even; to whole numbers, or to `places` decimal places (tens, hundreds if negative)."""
        digits = _whole(places, "the number of places in round")
        if isinstance(a, int) and digits >= 0:
            return a
        if digits < -DIGITS_MAX and not isinstance(a, Real):
            return 0
        if abs(digits) > DIGITS_MAX:
            raise CalculatorError(f"round to at most {DIGITS_MAX:,} places", "limit")
        if isinstance(a, Real):
            if digits == 0:
                return self._reals.whole(a, ROUND_HALF_EVEN)
            steps = self._reals.whole(self._reals.shifted(a, digits), ROUND_HALF_EVEN)
            return self._reals.shifted(Real(Decimal(steps), Decimal(0)), -digits)
        self._pay(a, 10 ** abs(digits))
        return kept(round(Fraction(a), digits))

    def least(self, *values: Number) -> Number:
        best = values[0]
        for value in values[1:]:
            if self._compare(value, best) < 0:
                best = value
        return best

    def greatest(self, *values: Number) -> Number:
        best = values[0]
        for value in values[1:]:
            if self._compare(value, best) > 0:
                best = value
        return best

    def total(self, *values: Number) -> Number:
        result: Number = 0
        for value in values:
            result = self.add(result, value)
        return result

    # -- whole numbers ---------------------------------------------------------------------------

    def factorial(self, a: Number) -> Number:
        n = _whole(a, "factorial")
        if n < 0:
            raise CalculatorError("factorial needs a whole number that is not negative", "domain")
        if n > _FACTORIAL_MAX:
            raise too_long("the factorial")
        self._budget.spend(n * n // 2)
        return kept(math.factorial(n))

    def gcd(self, *values: Number) -> Number:
        result = 0
        for value in values:
            n = _whole(value, "gcd")
            self._pay(result, n, times=2)
            result = math.gcd(result, n)
        return result

    def lcm(self, *values: Number) -> Number:
        result = 1
        for value in values:
            n = _whole(value, "lcm")
            self._pay(result, n, times=4)
            result = math.lcm(result, n)
            if not fits(result):
                raise too_long()
        return result

    # -- inside ----------------------------------------------------------------------------------

    def _pay(self, a: Exact, b: Exact, times: int = 1) -> None:
        """Pay for a product, quotient or sum; on fractions those hide several divisors to be found."""
        if isinstance(a, int) and isinstance(b, int):
            self._budget.spend(times * words(a) * words(b))
        else:
            self._budget.spend(_FRACTION_WORK + times * (words(a) + words(b)) ** 2)

    def _pay_function(self, a: Number, times: int = 1) -> None:
        self._budget.spend(times * self._function_work)
        if not isinstance(a, Real):
            self._budget.spend(4 * words(a) ** 2)

    def _real(self, a: Number) -> Real:
        if isinstance(a, Real):
            return a
        self._budget.spend(4 * words(a) ** 2)
        return self._reals.of(a)

    def _pair(self, a: Number, b: Number) -> tuple[Real, Real]:
        self._budget.spend(_REAL_WORK)
        return self._real(a), self._real(b)

    def _sign(self, a: Number) -> int:
        return self._reals.sign(a) if isinstance(a, Real) else (a > 0) - (a < 0)

    def _compare(self, a: Number, b: Number) -> int:
        if isinstance(a, Real) or isinstance(b, Real):
            return self._sign(self.subtract(a, b))
        self._pay(a, b)
        return (a > b) - (a < b)

    def _refuse_zero(self, a: Number, message: str) -> None:
        if self._sign(a) == 0:
            raise CalculatorError(message, "domain")

    def _zero_to(self, sign_of_exponent: int) -> int:
        if sign_of_exponent < 0:
            raise CalculatorError("zero to a negative power is a division by zero", "domain")
        return 0 if sign_of_exponent else 1

    def _exact_power(self, base: Exact, exponent: int) -> Number:
        if base == 0:
            return self._zero_to((exponent > 0) - (exponent < 0))
        if abs(base) == 1:
            return base if exponent % 2 else 1
        result = self._short_power(base, exponent)
        if result is not None:
            return result
        if exponent > 0 and isinstance(base, int):
            raise too_long("the power")
        return self._real_to_whole(base, exponent)

    def _short_power(self, base: Exact, exponent: int) -> Exact | None:
        """The exact power, or None where it would be too long to keep; base is not 0."""
        longest = max(abs(base.numerator), base.denominator).bit_length()
        # At least this long; at most twice that, so the power itself is cheap enough to look at.
        if (longest - 1) * abs(exponent) > _BITS_MAX:
            return None
        self._budget.spend((longest * abs(exponent) // 30) ** 2)
        result = Fraction(base) ** exponent
        return kept(result) if fits(result) else None

    def _real_to_whole(self, base: Number, exponent: int) -> Number:
        sign = self._sign(base)
        if sign == 0:
            return self._zero_to((exponent > 0) - (exponent < 0))
        size = self.exp(self.multiply(exponent, self.log(self.absolute(base))))
        return self.negative(size) if sign < 0 and exponent % 2 else size

    def _modular_power(self, base: Number, exponent: Number, modulus: Number) -> int:
        b, n, m = (_whole(value, "pow with three arguments") for value in (base, exponent, modulus))
        self._refuse_zero(m, "pow with a modulus of zero is a division by zero")
        self._budget.spend((n.bit_length() + 4) * words(m) ** 2 * 3 + words(b) * words(m))
        try:
            return pow(b, n, m)
        except ValueError:
            raise CalculatorError(
                "pow: the base has no inverse for this modulus (they share a divisor)", "domain"
            ) from None

    def _log_to_base(self, a: Number, base: Number) -> Number:
        bottom = self.log(base)
        self._refuse_zero(bottom, "the logarithm to base 1 has no value")
        result = self.divide(self.log(a), bottom)
        if isinstance(result, Real) and not isinstance(a, Real) and not isinstance(base, Real):
            nearest = round(result.value)
            if self._short_power(base, nearest) == a:
                return nearest
        return result

    def _sin_cos(self, a: Number) -> tuple[Real, Real]:
        self._pay_function(a)
        return self._reals.sin_cos(self._real(a))

    def _one_minus_square(self, a: Number, name: str) -> Number:
        """1 - a*a as (1 - a)(1 + a), which does not cancel; raises where arc sine and cosine end."""
        rest = self.multiply(self.subtract(1, a), self.add(1, a))
        if self._sign(rest) < 0:
            raise CalculatorError(f"{name} needs a number from -1 to 1", "domain")
        return rest


def _whole(a: Number, what: str) -> int:
    if not isinstance(a, int):
        raise CalculatorError(f"{what} needs a whole number", "domain")
    return a
