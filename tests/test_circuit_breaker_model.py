"""The breaker against a naive model: any sequence of operations, and any history of threads."""

from __future__ import annotations

import copy
import itertools
import math
import random
import threading
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

import circuit_breaker
from circuit_breaker import BreakerPolicy, CircuitBreaker, CountWindow, Permit
from errors import CircuitOpen, Outcome
from events import CircuitOpened, Event
from tests.support_rules import Clock, run_together

SUCCESS, FAILURE, THROTTLED, NEUTRAL = Outcome.SUCCESS, Outcome.FAILURE, Outcome.THROTTLED, Outcome.NEUTRAL

# --- against a naive model -------------------------------------------------------------------------------


class Model:
    """The rules as plainly as they can be written: numbers, one dict, no thought of threads or speed."""

    def __init__(self, policy: BreakerPolicy) -> None:
        self.policy = policy
        self.generation, self.closed, self.row, self.successes, self.open_until_s = 0, True, 0, 0, 0.0
        self.probes: dict[Any, float] = {}
        self.announced = False
        self.generation_of: dict[Any, int] = {}
        self.began_s: dict[Any, float] = {}
        self.last: list[tuple[bool, bool]] = []  # of each call since the circuit closed: failed, slow
        self.reopened = 0

    def state(self, now_s: float) -> str:
        return "closed" if self.closed else "open" if now_s < self.open_until_s else "half_open"

    def would_admit(self, now_s: float) -> bool:
        live = [end_s for end_s in self.probes.values() if end_s > now_s]
        return self.closed or (now_s >= self.open_until_s and len(live) < self.policy.max_probes)

    def acquire(self, token: Any, now_s: float, lease_s: float) -> str:
        if not self.would_admit(now_s):
            return "refused"
        self.generation_of[token] = self.generation
        self.began_s[token] = now_s
        if self.closed:
            return "admitted"
        self.probes = {probe: end_s for probe, end_s in self.probes.items() if end_s > now_s}
        self.probes[token] = now_s + lease_s
        first, self.announced = not self.announced, True
        return "CircuitHalfOpened" if first else "admitted"

    def settle(self, token: Any, outcome: Outcome, now_s: float, asked_s: float = 0.0) -> str | None:
        if self.generation_of.pop(token, None) != self.generation:
            return None
        if not self.closed and self.probes.pop(token, None) is None:
            return None
        if outcome not in (SUCCESS, FAILURE):
            return None
        window, failed = self.policy.window, outcome is FAILURE
        slow = window is not None and now_s - self.began_s[token] >= window.slow_s
        if not self.closed and (failed or slow):
            return self.reopen(now_s, asked_s, row=self.row + failed, reopened=self.reopened + 1)
        if not self.closed:
            self.successes += 1
            return self.change(closed=True, row=0) if self.successes == self.policy.success_threshold else None
        self.row = self.row + 1 if failed else 0
        self.last.append((failed, slow))
        if self.is_too_much():
            return self.reopen(now_s, asked_s, row=self.row, reopened=0)
        return None

    def is_too_much(self) -> bool:
        window = self.policy.window
        if window is None:
            return self.row >= self.policy.failure_threshold
        seen = self.last[-window.size :]
        failures, slow = sum(call[0] for call in seen), sum(call[1] for call in seen)
        many = len(seen) >= window.calls_min
        return many and (failures >= window.failure_rate * len(seen) or slow >= window.slow_rate * len(seen))

    def reopen(self, now_s: float, asked_s: float, *, row: int, reopened: int) -> str:
        self.change(closed=False, row=row)
        self.reopened = reopened
        open_s = min(self.policy.open_s * self.policy.open_s_growth**reopened, 300.0)
        self.open_until_s = now_s + max(open_s, min(asked_s, 300.0))
        return "CircuitOpened"

    def change(self, *, closed: bool, row: int) -> str:
        self.generation += 1
        self.closed, self.row, self.successes, self.probes, self.announced = closed, row, 0, {}, False
        self.last, self.reopened = [], 0
        return "CircuitClosed"

    def turn(self, how: str) -> str | None:
        """By hand."""
        was_closed, by_hand = self.closed, not self.closed and self.open_until_s == math.inf
        if how == "open" and by_hand:
            return None
        self.change(closed=how == "close", row=0 if how == "close" else self.row)
        self.open_until_s = {"open": math.inf, "half_open": -math.inf, "close": 0.0}[how]
        return {"open": "CircuitOpened", "half_open": None, "close": None if was_closed else "CircuitClosed"}[how]


def admitted(breaker: CircuitBreaker, lease_s: float | None = None) -> Permit | None:
    try:
        return breaker.acquire(lease_s)
    except CircuitOpen:
        return None


def answer_of(permit: Permit | None) -> str:
    return "refused" if permit is None else name_of(permit.event) or "admitted"


def name_of(event: Event | None) -> str | None:
    return type(event).__name__ if event is not None else None


WINDOWS = [
    None,
    CountWindow(size=3, calls_min=2, failure_rate=0.5),
    CountWindow(size=4, calls_min=4, failure_rate=0.75, slow_rate=0.5, slow_s=4.0),
]


class BreakerAgainstModel(RuleBasedStateMachine):
    """Any sequence of calls, reports and waits ends as the model says."""

    permits = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock(0.0)
        self.set_up(BreakerPolicy(failure_threshold=2, open_s=10.0))

    def set_up(self, policy: BreakerPolicy) -> None:
        self.breaker = CircuitBreaker("it", policy, now=self.clock)
        self.model = Model(policy)

    @rule(
        failures=st.integers(1, 3),
        successes=st.integers(1, 3),
        probes=st.integers(1, 3),
        open_s=st.sampled_from([0.0, 10.0]),
        growth=st.sampled_from([1.0, 2.0]),
        window=st.sampled_from(WINDOWS),
    )
    def begin_anew(
        self, failures: int, successes: int, probes: int, open_s: float, growth: float, window: CountWindow | None
    ) -> None:
        self.set_up(
            BreakerPolicy(
                failure_threshold=failures, success_threshold=successes, max_probes=probes, open_s=open_s,
                open_s_growth=growth, window=window,
            )
        )  # fmt: skip

    @rule(target=permits, lease_s=st.sampled_from([1.0, 5.0, 100.0]))
    def acquire(self, lease_s: float) -> tuple[CircuitBreaker, Permit | None]:
        permit = admitted(self.breaker, lease_s)
        token = permit if permit is not None else object()
        assert answer_of(permit) == self.model.acquire(token, self.clock.now_s, lease_s)
        return self.breaker, permit

    @rule(
        held=consumes(permits),
        outcome=st.sampled_from([SUCCESS, FAILURE, FAILURE, NEUTRAL, THROTTLED]),
        asked_s=st.sampled_from([0.0, 3.0, 40.0, 1000.0]),
        twice=st.booleans(),
    )
    def settle(self, held: tuple[CircuitBreaker, Permit | None], outcome: Outcome, asked_s: float, twice: bool) -> None:
        breaker, permit = held
        if permit is None or breaker is not self.breaker:
            return
        expected = self.model.settle(permit, outcome, self.clock.now_s, asked_s)
        assert name_of(permit.settle(outcome, asked_s)) == expected
        if twice:
            assert permit.settle(FAILURE) is None

    @rule(how=st.sampled_from(["open", "half_open", "close"]))
    def turn(self, how: str) -> None:
        assert name_of(getattr(self.breaker, how)()) == self.model.turn(how)

    @rule(s=st.sampled_from([0.0, 1.0, 4.0, 10.0, 300.0]))
    def wait(self, s: float) -> None:
        self.clock.now_s += s

    @invariant()
    def they_agree(self) -> None:
        now_s = self.clock.now_s
        assert self.breaker.state == self.model.state(now_s)
        shot = self.breaker.snapshot()
        assert shot.failures_in_a_row == self.model.row
        if shot.window is not None and self.breaker.policy.window is not None:
            seen = self.model.last[-self.breaker.policy.window.size :]
            assert shot.window == (len(seen), sum(call[0] for call in seen), sum(call[1] for call in seen))
        assert (shot.retry_after_s == 0) == self.model.would_admit(now_s)
        try:
            self.breaker.peek()
            passed = True
        except CircuitOpen:
            passed = False
        assert passed == self.model.would_admit(now_s)


TestBreakerAgainstModel = BreakerAgainstModel.TestCase
TestBreakerAgainstModel.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)


# --- threads ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probes", [1, 3])
def test_exactly_max_probes_of_many_threads_get_through_when_half_open(probes: int) -> None:
    clock = Clock()
    policy = BreakerPolicy(failure_threshold=1, max_probes=probes, success_threshold=10**9)
    breaker = CircuitBreaker("it", policy, now=clock)
    breaker.acquire().settle(FAILURE)
    clock.now_s += 60
    got: list[Permit | None] = []
    counts: list[tuple[int, int]] = []

    def act(thread: int, number: int) -> None:
        got.append(admitted(breaker))

    def between(number: int) -> None:
        through = [permit for permit in got if permit is not None]
        counts.append((len(got), len(through)))
        for permit, outcome in zip(through, itertools.cycle([NEUTRAL, SUCCESS, FAILURE]), strict=False):
            permit.settle(outcome)
        got.clear()
        clock.now_s += 60

    run_together(circuit_breaker, rounds=300, threads=6, act=act, between=between)
    assert counts == [(6, probes)] * 300


def test_failures_of_many_threads_open_it_exactly_once() -> None:
    clock = Clock()
    heard: list[Event] = []
    current = [CircuitBreaker("it", BreakerPolicy(failure_threshold=7), now=clock, listener=heard.append)]
    rounds: list[list[Event]] = []

    def act(thread: int, number: int) -> None:
        permit = admitted(current[0])
        if permit is not None:
            permit.settle(FAILURE)

    def between(number: int) -> None:
        rounds.append(list(heard))
        assert current[0].snapshot().failures_in_a_row == 7
        heard.clear()
        current[0] = CircuitBreaker("it", BreakerPolicy(failure_threshold=7), now=clock, listener=heard.append)

    run_together(circuit_breaker, rounds=200, threads=8, act=act, between=between)
    assert rounds == [[CircuitOpened("it", 7, 60.0)]] * 200


@dataclass(frozen=True)
class Operation:
    """One operation of a recorded history; `began` and `ended` are ticks of one shared counter."""

    began: int
    ended: int
    token: Any
    outcome: Outcome | str | None  # None: acquire; a word: a turn by hand, or a look at the row
    result: Any


def linearizable(history: list[Operation], model: Model) -> bool:
    """Whether some order that respects real time makes the model answer the same (Wing & Gong 1993)."""
    if not history:
        return True
    horizon = min(operation.ended for operation in history)
    for operation in history:
        if operation.began > horizon:
            continue  # another one ended before this began, so it must come first
        after = copy.copy(model)
        after.probes, after.generation_of = dict(model.probes), dict(model.generation_of)
        after.began_s, after.last = dict(model.began_s), list(model.last)
        if operation.outcome == "look":
            said: Any = after.row
        elif isinstance(operation.outcome, str):
            said = after.turn(operation.outcome)
        elif operation.outcome is None:
            said = after.acquire(operation.token, 0.0, math.inf)
        else:
            said = after.settle(operation.token, operation.outcome, 0.0)
        rest = [other for other in history if other is not operation]
        if said == operation.result and linearizable(rest, after):
            return True
    return False


@pytest.mark.parametrize(
    ("policy", "rounds"),
    [
        (BreakerPolicy(failure_threshold=2, open_s=0.0), 300),
        (BreakerPolicy(open_s=0.0, window=CountWindow(size=3, calls_min=2)), 150),
        (BreakerPolicy(open_s=0.0, max_probes=2, success_threshold=2, window=CountWindow(size=2, calls_min=1)), 150),
    ],
    ids=["row", "window", "window and two probes"],
)
def test_every_history_of_threads_is_linearizable(policy: BreakerPolicy, rounds: int) -> None:
    """With an open time of 0 the circuit passes through all its states within a few operations."""
    tick, lock = itertools.count(), threading.Lock()
    history: list[Operation] = []
    breakers = [CircuitBreaker("it", policy, now=Clock(0.0))]
    checked: list[int] = []

    def act(thread: int, number: int) -> None:
        breaker, chance, mine = breakers[0], random.Random(f"{number}/{thread}"), []
        for step in range(3):
            if chance.random() < 0.2:
                began = next(tick)
                row = breaker.snapshot().failures_in_a_row
                mine.append(Operation(began, next(tick), None, "look", row))
            if chance.random() < 0.1:
                how = chance.choice(["open", "half_open", "close"])
                began = next(tick)
                event = getattr(breaker, how)()
                mine.append(Operation(began, next(tick), None, how, name_of(event)))
            token = (thread, step)
            began = next(tick)
            permit = admitted(breaker, math.inf)
            mine.append(Operation(began, next(tick), token, None, answer_of(permit)))
            if permit is None:
                continue
            outcome = chance.choice([SUCCESS, FAILURE, FAILURE, NEUTRAL])
            began = next(tick)
            event = permit.settle(outcome)
            mine.append(Operation(began, next(tick), token, outcome, name_of(event)))
        with lock:
            history.extend(mine)

    def between(number: int) -> None:
        assert linearizable(history, Model(policy)), sorted(history, key=lambda op: op.began)
        checked.append(len(history))
        history.clear()
        breakers[0] = CircuitBreaker("it", policy, now=Clock(0.0))

    run_together(circuit_breaker, rounds=rounds, threads=3, act=act, between=between, chance=0.1)
    assert len(checked) == rounds


def test_the_checker_of_histories_can_say_no() -> None:
    policy = BreakerPolicy(failure_threshold=1, open_s=0.0)
    overlapping = [
        Operation(0, 1, "a", None, "admitted"),
        Operation(2, 3, "a", FAILURE, "CircuitOpened"),
        Operation(4, 7, "b", None, "CircuitHalfOpened"),
        Operation(5, 6, "c", None, "admitted"),
    ]
    assert not linearizable(overlapping, Model(policy))
    overlapping[3] = Operation(5, 6, "c", None, "refused")
    assert linearizable(overlapping, Model(policy))
