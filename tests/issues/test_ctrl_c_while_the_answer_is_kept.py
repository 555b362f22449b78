"""Ctrl-C while an answer was put on record added a line to a history that had its answer: two of one role in a row.

Every later question of that session was then refused (promise A1). Found by seed 903 of the simulation.
"""

from __future__ import annotations

import pytest

from tests.simulation.campaign import judged
from tests.simulation.plans import SONNET, Asked, Plan
from tests.simulation.scripts import Round, note
from tests.simulation.strikes import Strike

SAVE = (Round("tools", (note(1, 0),)),)


@pytest.mark.parametrize("effect", ["Blocking", "Converse", "Pause"])
def test_the_history_can_be_continued_wherever_ctrl_c_strikes(effect: str) -> None:
    struck = 0
    for after in range(30):
        strike = Strike(f"effect.{effect}", "interrupt", after)
        one = judged(Plan(1, SONNET, "ask", (Asked(1, SAVE, (strike,)), Asked(2, ()))))
        assert one.problems == ()
        if not one.hits[strike.where, strike.kind]:
            break
        struck += 1
    assert 1 <= struck < 30
