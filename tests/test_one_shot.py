"""What a signal does from the question on."""

from __future__ import annotations

import signal

import pytest

import ui.one_shot
from core.report import TurnReport
from messages import NO_USAGE
from ui.one_shot import ENDING_S_MAX, Stopper
from wiring import Answer


class Left(Exception):
    """The process would be gone here."""


class Stage:
    """A stopper, the question it stops, and a clock in the test's hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        self.stopped: list[int] = []
        self.left: list[tuple[int, bool]] = []
        monkeypatch.setattr("time.monotonic", lambda: self.now_s)
        monkeypatch.setattr(ui.one_shot, "end_now", self._end_now)
        self.stopper = Stopper(self.stopped.append, as_json=True)

    def _end_now(self, number: int, *, as_json: bool) -> None:
        self.left.append((number, as_json))
        raise Left


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


def answer(status: str) -> Answer:
    report = TurnReport(status, "", None, (), (), NO_USAGE, None, 1)
    return Answer(report, "t", "s", 0)


def test_the_first_signal_stops_the_question_and_the_next_ones_wait_for_its_end(stage: Stage) -> None:
    stage.stopper(signal.SIGTERM)
    stage.now_s += ENDING_S_MAX
    stage.stopper(signal.SIGINT)
    assert stage.stopped == [signal.SIGTERM]
    assert stage.stopper.code_of(answer("cancelled")) == 143


def test_when_the_end_does_not_come_one_more_signal_leaves_and_says_so(stage: Stage) -> None:
    stage.stopper(signal.SIGINT)
    stage.now_s += ENDING_S_MAX + 0.1
    with pytest.raises(Left):
        stage.stopper(signal.SIGINT)
    assert stage.left == [(signal.SIGINT, True)]


def test_a_finished_answer_wins_over_a_signal_that_comes_after_it(stage: Stage) -> None:
    stage.stopper.over()
    stage.stopper(signal.SIGINT)
    assert stage.stopped == []
    assert stage.stopper.code_of(answer("ok")) == 0


def test_a_stop_that_came_too_late_does_not_change_the_exit_code(stage: Stage) -> None:
    stage.stopper(signal.SIGINT)
    stage.stopper.over()
    assert stage.stopper.code_of(answer("failed")) == 1


def test_an_answer_that_nobody_reads_can_be_left_without_a_second_object(stage: Stage) -> None:
    stage.stopper.over()
    stage.now_s += ENDING_S_MAX + 0.1
    with pytest.raises(Left):
        stage.stopper(signal.SIGTERM)
    assert stage.left == [(signal.SIGTERM, False)]
