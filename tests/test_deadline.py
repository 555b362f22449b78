"""A deadline is one point on the clock: layers ask what is left and never restart it."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from deadline import NEVER, START_S_MIN, Deadline

TIMES = st.floats(0, 1e6)
SPANS = st.floats(0, 1e5)


def test_what_is_left_shrinks_with_the_clock_and_is_never_negative() -> None:
    deadline = Deadline.after(100.0, 10.0)
    assert [deadline.left_s(now_s) for now_s in (100.0, 104.0, 110.0, 999.0)] == [10.0, 6.0, 0.0, 0.0]


def test_no_attempt_starts_that_could_only_be_killed() -> None:
    deadline = Deadline.after(0.0, 1.0)
    assert deadline.allows_start(1.0 - START_S_MIN - 1e-6)
    assert not deadline.allows_start(1.0 - START_S_MIN + 1e-6)
    assert not deadline.allows_start(5.0)


def test_a_wait_fits_only_when_an_attempt_fits_behind_it() -> None:
    deadline = Deadline.after(0.0, 2.0)
    assert deadline.fits(0.0, 1.75)
    assert not deadline.fits(0.0, 1.9)
    assert not deadline.fits(0.0, math.inf)
    assert not deadline.fits(0.0, math.nan)


@given(TIMES, SPANS, SPANS, SPANS)
def test_a_wait_that_fits_leaves_enough_for_a_start_afterwards(
    now_s: float, left_s: float, wait_s: float, late_s: float
) -> None:
    deadline = Deadline.after(now_s, left_s)
    if deadline.fits(now_s, wait_s):
        assert deadline.left_s(now_s + wait_s) >= START_S_MIN - 1e-6
    else:
        assert not deadline.allows_start(now_s + wait_s + late_s + 1e-6)


@given(TIMES, SPANS, SPANS, SPANS)
def test_the_earlier_of_two_never_gives_more_time_than_either(
    now_s: float, outer_s: float, inner_s: float, passed_s: float
) -> None:
    outer = Deadline.after(now_s, outer_s)
    both, later_s = outer.earlier(now_s, inner_s), now_s + passed_s
    assert both.left_s(later_s) == min(outer.left_s(later_s), Deadline.after(now_s, inner_s).left_s(later_s))


def test_never_is_never_over_and_gives_way_to_any_other() -> None:
    assert NEVER.allows_start(1e300)
    assert NEVER.fits(0.0, 1e9)
    assert NEVER.earlier(5.0, 2.0) == Deadline(7.0)
