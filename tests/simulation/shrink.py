"""Makes a failing run as small as it can be and still fail, and writes it as a test.

Whole questions go first, then strikes, then rounds and calls of the scripts, one at a time, until nothing more can
go. A smaller plan counts when it breaks the same promise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.simulation.campaign import judged
from tests.simulation.plans import Asked, Plan
from tests.simulation.scripts import Round

TRIES_MAX = 400


def shrunk(plan: Plan, problems: Callable[[Plan], tuple[str, ...]] = lambda plan: judged(plan).problems) -> Plan:
    """The smallest plan found that breaks the same promise as `plan` does."""
    wanted = {problem.partition(":")[0] for problem in problems(plan)}
    tries = 0
    found = True
    while found:
        found = False
        for smaller in _smaller(plan):
            tries += 1
            if tries > TRIES_MAX:
                return plan
            if wanted & {problem.partition(":")[0] for problem in problems(smaller)}:
                plan, found = smaller, True
                break
    return plan


def as_test(plan: Plan, problem: str) -> str:
    """A test of this plan, ready for tests/issues/."""
    return f'''"""{problem.replace('"', "'")}"""

from __future__ import annotations

from tests.simulation.campaign import judged
from tests.simulation.plans import Asked, Plan
from tests.simulation.scripts import Round
from tests.simulation.strikes import Strike


def test_seed_{plan.seed}() -> None:
    plan = {plan!r}  # fmt: skip
    assert judged(plan).problems == ()
'''


def _smaller(plan: Plan) -> Iterator[Plan]:
    asked = plan.questions
    for at in range(len(asked) - 1):
        yield replace(plan, questions=(*asked[:at], *asked[at + 1 :]))
    for at, one in enumerate(asked):
        for less in _lesser(one):
            yield replace(plan, questions=(*asked[:at], less, *asked[at + 1 :]))


def _lesser(asked: Asked) -> Iterator[Asked]:
    for at in range(len(asked.strikes)):
        yield replace(asked, strikes=(*asked.strikes[:at], *asked.strikes[at + 1 :]))
    for at, one in enumerate(asked.script):
        for rounds in ((), *((less,) for less in _fewer_calls(one))):
            yield replace(asked, script=(*asked.script[:at], *rounds, *asked.script[at + 1 :]))


def _fewer_calls(one: Round) -> Iterator[Round]:
    for at in range(len(one.calls) if len(one.calls) > 1 else 0):
        yield replace(one, calls=(*one.calls[:at], *one.calls[at + 1 :]))
    if one.kind != "tools" and one.calls:
        yield replace(one, kind="tools")
