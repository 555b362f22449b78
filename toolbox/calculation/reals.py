"""Irrational numbers, each carried with a bound on how wrong it can be (floor 4).

A float forgets: `10**20 + pi - 10**20` comes out as 0.0, and nobody is told. Here a `Real` is a decimal
of some sixty digits and its `slop`, the largest possible distance from the true number; every operation
passes the slop on. A question whose answer depends on digits that the slop has eaten (is it zero? which
integer is below it? which float is nearest?) raises `Unsure`, and the caller computes everything once
more with many times the digits. What is still undecided then is taken as equal if the difference is
smaller than any float (`sin(pi)` and 0), and refused otherwise.

Functions take exact decimals and are accurate to all `digits`; the contexts work with `_GUARD` digits more,
so that the roundings inside one function need no bookkeeping. It deliberately knows no complex numbers
and no infinities: leaving the exponent range raises `decimal.Overflow` or `decimal.Underflow`.
"""

from __future__ import annotations

import decimal
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, ROUND_UP, Context, Decimal
from functools import lru_cache

from toolbox.calculation.limits import CalculatorError, Exact

_GUARD = 15
# Wide enough for every intermediate worth having; exp() beyond it stops at once.
_EXPONENT_MAX = 999_999_999
# On the last try, numbers closer together than this are taken as equal: it is below the smallest float.
_EQUAL_BELOW = Decimal("1e-324")
# Relative: with this many digits certain, a float is off by no more than the half it must be.
_SURELY_ENOUGH = Decimal("1e-30")
# First-order error bounds hold while the slop stays this small.
_SLOP_MAX = Decimal("1e-9")

_ZERO = Decimal(0)
_ONE = Decimal(1)
_TWO = Decimal(2)


class Unsure(Exception):
    """The digits carried so far do not decide the answer: compute again with more."""


@dataclass(frozen=True, slots=True)
class Real:
    """A number at most `slop` away from `value`."""

    value: Decimal
    slop: Decimal


class Reals:
    """Arithmetic and elementary functions on `Real` with a given number of digits.

    `last` says that there is no second try: undecided questions are then settled or refused.
    """

    def __init__(self, digits: int, last: bool) -> None:
        self.digits = digits
        self.last = last
        self._work = _context(digits + _GUARD)
        self._unit = Decimal((0, (1,), -digits))
        self._negligible = Decimal((0, (1,), -digits - _GUARD))
        # Slop needs few digits, always rounded up, and an exponent range that never ends.
        self._up = Context(prec=10, rounding=ROUND_UP, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX)

    def of(self, value: Exact) -> Real:
        """An exact number as a Real."""
        return self._rounded(self._work.divide(Decimal(value.numerator), Decimal(value.denominator)))

    def pi(self) -> Real:
        """The number pi."""
        return self._rounded(_pi(self.digits + _GUARD))

    # -- operators -------------------------------------------------------------------------------

    def negative(self, a: Real) -> Real:
        return Real(a.value.copy_negate(), a.slop)

    def add(self, a: Real, b: Real) -> Real:
        return self._rounded(self._work.add(a.value, b.value), self._up.add(a.slop, b.slop))

    def subtract(self, a: Real, b: Real) -> Real:
        return self.add(a, self.negative(b))

    def multiply(self, a: Real, b: Real) -> Real:
        up = self._up
        cross = up.add(up.multiply(a.value.copy_abs(), b.slop), up.multiply(b.value.copy_abs(), a.slop))
        slop = up.add(cross, up.multiply(a.slop, b.slop))
        return self._rounded(self._work.multiply(a.value, b.value), slop)

    def divide(self, a: Real, b: Real) -> Real:
        """The quotient; `b` must be known not to be zero (see `sign`)."""
        up = self._up
        value = self._work.divide(a.value, b.value)
        error = up.add(a.slop, up.multiply(value.copy_abs(), b.slop))
        return self._rounded(value, up.divide(error, up.subtract(b.value.copy_abs(), b.slop)))

    # -- questions -------------------------------------------------------------------------------

    def sign(self, a: Real) -> int:
        """-1, 0 or 1."""
        if a.value.copy_abs() > a.slop:
            return 1 if a.value > 0 else -1
        if a.slop:
            self._settle(a)
        return 0

    def whole(self, a: Real, rounding: str) -> int:
        """The integer that a decimal rounding mode makes of the number."""
        low, high = (end.to_integral_value(rounding) for end in self._ends(a))
        if low != high:
            self._settle(a)
            # All roundings change their answer at multiples of one half only: it is that one.
            halves = self._work.multiply(a.value, _TWO).to_integral_value(ROUND_HALF_EVEN)
            low = self._work.divide(halves, _TWO).to_integral_value(rounding)
        return int(low)

    def to_float(self, a: Real) -> float:
        """The float nearest to the number; raises `CalculatorError` when there is none."""
        low, high = (float(end) for end in self._ends(a))
        if low != high:
            # Half way between two floats is undecidable, but known so well that either float will do.
            if not self.last or a.slop > self._up.multiply(a.value.copy_abs(), _SURELY_ENOUGH):
                self._settle(a)
            low = float(a.value)
        if abs(low) == float("inf"):
            raise CalculatorError("the result is too large to write as a decimal (over 1e308)", "limit")
        if low == 0 and a.value.copy_abs() > a.slop:
            raise CalculatorError("the result is too close to zero to write as a decimal", "limit")
        return low + 0.0  # -0.0 becomes 0.0

    def shifted(self, a: Real, places: int) -> Real:
        """The number with its decimal point moved."""
        return Real(a.value.scaleb(places, self._work), a.slop.scaleb(places, self._up))

    # -- functions -------------------------------------------------------------------------------

    def sqrt(self, a: Real) -> Real:
        """The square root of a positive number."""
        value = self._work.sqrt(a.value)
        return self._rounded(value, self._up.divide(a.slop, value))

    def exp(self, a: Real) -> Real:
        value = self._work.exp(a.value)  # first, since a result out of range says more than lost digits
        self._need(a)
        return self._rounded(value, self._up.multiply(self._up.multiply(a.slop, _TWO), value))

    def ln(self, a: Real) -> Real:
        """The natural logarithm of a positive number."""
        slop = self._up.divide(a.slop, self._up.subtract(a.value, a.slop))
        return self._rounded(self._work.ln(a.value), slop)

    def artanh(self, a: Real) -> Real:
        """The area tangent of a number between -0.1 and 0.1."""
        return self._rounded(self._odd_series(a.value, alternate=False), self._up.multiply(a.slop, _TWO))

    def sin_cos(self, a: Real) -> tuple[Real, Real]:
        """Sine and cosine."""
        self._need(a)
        quadrant, rest = self._reduced(a.value)
        square = self._work.multiply(rest, rest).copy_negate()
        sine, cosine = self._power_series(rest, square, 1), self._power_series(_ONE, square, 0)
        for _ in range(quadrant):
            sine, cosine = cosine, sine.copy_negate()
        return self._rounded(sine, a.slop), self._rounded(cosine, a.slop)

    def sinh(self, a: Real) -> Real:
        if a.value.copy_abs() < 1:  # the difference below would cancel
            self._need(a)
            value = self._power_series(a.value, self._work.multiply(a.value, a.value), 1)
            return self._rounded(value, self._up.multiply(a.slop, _TWO))
        half = Real(Decimal("0.5"), _ZERO)
        return self.multiply(self.subtract(self.exp(a), self.exp(self.negative(a))), half)

    def cosh(self, a: Real) -> Real:
        half = Real(Decimal("0.5"), _ZERO)
        return self.multiply(self.add(self.exp(a), self.exp(self.negative(a))), half)

    def atan(self, a: Real) -> Real:
        """The arc tangent, between -pi/2 and pi/2."""
        work, size = self._work, a.value.copy_abs()
        if a.slop > _SLOP_MAX and a.slop > self._up.multiply(size, _SLOP_MAX):
            self._need(a)
        if size > 1:
            quarter = work.divide(_pi(work.prec), _TWO)
            value = work.subtract(quarter, self._small_atan(work.divide(_ONE, size)))
        else:
            value = self._small_atan(size)
        slope = self._up.add(_ONE, self._up.multiply(size, size))
        slop = self._up.divide(self._up.multiply(a.slop, _TWO), slope)
        return self._rounded(value.copy_sign(a.value), slop)

    # -- inside ----------------------------------------------------------------------------------

    def _rounded(self, value: Decimal, slop: Decimal = _ZERO) -> Real:
        return Real(value, self._up.add(slop, self._up.multiply(value.copy_abs(), self._unit)))

    def _ends(self, a: Real) -> tuple[Decimal, Decimal]:
        return self._work.subtract(a.value, a.slop), self._work.add(a.value, a.slop)

    def _settle(self, a: Real) -> None:
        """Ask for more digits, or allow the undecided number to be taken as the value it touches."""
        if not self.last:
            raise Unsure
        if a.slop > _EQUAL_BELOW:
            raise CalculatorError(
                "the digits that decide the result cancel or lie out of reach; rearrange the"
                " expression or use smaller numbers",
                "limit",
            )

    def _need(self, a: Real) -> None:
        if a.slop > _SLOP_MAX:
            self._settle(a)

    def _reduced(self, x: Decimal) -> tuple[int, Decimal]:
        """The quadrant of an angle and the angle left over, at most pi/4 either way."""
        wide = _context(2 * self._work.prec + 10)
        quarter = wide.divide(_pi(wide.prec), _TWO)
        turns = wide.divide(x, quarter).to_integral_value(ROUND_HALF_EVEN)
        return int(turns) % 4, wide.subtract(x, wide.multiply(turns, quarter))

    def _power_series(self, term: Decimal, square: Decimal, power: int) -> Decimal:
        """x**n/n! for every second n from `power` on: sine and cosine, or with signs alike sinh."""
        work, total = self._work, term
        while term.copy_abs() > work.multiply(total.copy_abs(), self._negligible):
            power += 2
            term = work.divide(work.multiply(term, square), Decimal(power * (power - 1)))
            total = work.add(total, term)
        return total

    def _odd_series(self, x: Decimal, alternate: bool) -> Decimal:
        """x**n/n for every odd n: artanh, or with alternating signs atan."""
        work, total, power, n = self._work, x, x, 1
        square = work.multiply(x, x)
        step = square.copy_negate() if alternate else square
        while power.copy_abs() > work.multiply(total.copy_abs(), self._negligible):
            n += 2
            power = work.multiply(power, step)
            total = work.add(total, work.divide(power, Decimal(n)))
        return total

    def _small_atan(self, x: Decimal) -> Decimal:
        """The arc tangent of 0 <= x <= 1, by halving the angle until the series is short."""
        work, halvings = self._work, 0
        while x > Decimal("0.05"):
            root = work.sqrt(work.add(_ONE, work.multiply(x, x)))
            x = work.divide(x, work.add(_ONE, root))
            halvings += 1
        return work.multiply(self._odd_series(x, alternate=True), Decimal(2**halvings))


def _context(digits: int) -> Context:
    traps = [decimal.Overflow, decimal.Underflow, decimal.InvalidOperation, decimal.DivisionByZero]
    return Context(prec=digits, rounding=ROUND_HALF_EVEN, Emin=-_EXPONENT_MAX, Emax=_EXPONENT_MAX, traps=traps)


@lru_cache(maxsize=8)
def _pi(digits: int) -> Decimal:
    """Pi by Machin's formula, 16 atan(1/5) - 4 atan(1/239), in integers with ten digits to spare."""
    scale = 10 ** (digits + 10)
    total = 4 * (4 * _inverse_atan(5, scale) - _inverse_atan(239, scale))
    return _context(digits).divide(Decimal(total), Decimal(scale))


def _inverse_atan(n: int, scale: int) -> int:
    total = term = scale // n
    divisor, sign = 1, 1
    while term:
        term //= n * n
        divisor, sign = divisor + 2, -sign
        total += sign * (term // divisor)
    return total
