"""On the virtual clock a blocking call can take time, and meets timeouts and Ctrl-C at its gate as on a thread."""

from __future__ import annotations

from typing import Any

import pytest

from doors.threads import CLAIMED_WAIT_S
from doors.virtual import VirtualDoor
from errors import AgentError, AttemptTimedOut, OutcomeUnknown
from flow import Effect, Flow, Gate, attempt, blocking, pause, together


class Call:
    """A call that claims its gate, where it does, and then acts."""

    def __init__(self, *, claims: bool = True) -> None:
        self.claims, self.acted = claims, False

    def __call__(self, gate: Gate) -> str:
        if self.claims and not gate.claim():
            raise AgentError("stopped before it began", reason="timeout")
        self.acted = True
        return "done"


def paced(acts_s: float, back_s: float) -> VirtualDoor:
    return VirtualDoor(pace=lambda branch: (acts_s, back_s))


def outcome(door: VirtualDoor, call: Call, s: float) -> Any:
    def flow() -> Flow[Any]:
        try:
            return (yield from attempt(blocking(call), s))
        except AgentError as error:
            return type(error), door.now()

    return door.run(flow())


def test_a_call_takes_its_time() -> None:
    door = paced(1.0, 2.0)
    assert outcome(door, Call(), 10.0) == "done"
    assert door.now() == 1_003.0


def test_a_call_that_overruns_before_its_point_of_no_return_never_acts() -> None:
    door, call = paced(5.0, 0.0), Call()
    assert outcome(door, call, 2.0) == (AttemptTimedOut, 1_002.0)
    door.run(pause(10.0))  # its thread goes on, and finds the gate shut
    assert not call.acted


def test_a_call_past_it_that_is_back_in_its_grace_wins_over_the_timeout() -> None:
    assert outcome(paced(1.0, 1.0 + CLAIMED_WAIT_S / 2), Call(), 2.0) == "done"


def test_a_call_past_it_that_does_not_come_back_is_unknown() -> None:
    door, call = paced(1.0, 60.0), Call()
    assert outcome(door, call, 2.0) == (OutcomeUnknown, 1_002.0 + CLAIMED_WAIT_S)
    assert call.acted


def test_after_a_late_result_the_flow_may_not_go_on() -> None:
    door, went_on = paced(1.0, 1.05), []

    def inner() -> Flow[str]:
        yield from blocking(Call())
        yield from pause(0.0)
        went_on.append(True)
        return "never"

    def flow() -> Flow[str]:
        with pytest.raises(AttemptTimedOut):
            yield from attempt(inner(), 2.0)
        return "over"

    assert door.run(flow()) == "over"
    assert went_on == []


@pytest.mark.parametrize(("back_s", "is_known"), [(0.05, True), (60.0, False)])
def test_ctrl_c_waits_a_moment_for_a_call_past_its_point_of_no_return(back_s: float, is_known: bool) -> None:
    door, gate = paced(1.0, back_s), Gate()
    with pytest.raises(KeyboardInterrupt):
        door.run(together([blocking(Call(), gate)]), cancel_at_s=1_001.04)
    assert (gate.claimed, gate.settled.is_set()) == (True, is_known)


def test_a_run_can_end_before_any_effect_and_closes_its_flows() -> None:
    seen: list[str] = []

    def watch(effect: Effect, branch: object) -> None:
        seen.append(type(effect).__name__)
        if len(seen) == 3:
            raise KeyboardInterrupt

    closed = []

    def flow() -> Flow[None]:
        try:
            for _ in range(5):
                yield from pause(1.0)
        finally:
            closed.append(True)

    door = VirtualDoor(watch=watch)
    with pytest.raises(KeyboardInterrupt):
        door.run(flow())
    assert (seen, closed, door.now()) == (["Pause"] * 3, [True], 1_002.0)
    door.watch = None
    assert door.run(pause(1.0)) is None, "what was left of the run before harms nobody"
    assert door.now() == 1_003.0
