"""What each guard is worth: how many questions get the right answer while more and more fails.  (floor 6)

The agent as it is wired, with the person's own settings and unscaled times, on a virtual clock:
flows, guards, tools and the practice model are the real ones, only sleeping, sockets and files are
not (nothing is kept). So hours of outages take seconds, and one seed gives one chart.

Two kinds of trouble, since guards differ in what they are good for:

    passing    each attempt on a model fails by itself at this rate (overloaded, 5xx, 429, cut streams)
    outages    each model is silent for this share of every 20 minutes, at times of its own

A question counts as survived when its status is ok, its answer is right, and it ended by its deadline.
Where retries, breakers or fallbacks are off, that is a setting: MAX_RETRIES=0, a threshold that is
never reached, a chain of one model.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from config import Settings
from core.conversation import Conversation
from core.journal import Checkpoint, RecordIntents, RecordOutcome
from core.report import TurnReport
from core.turn import AskModel, Turn, answering
from deadline import Deadline
from doors.virtual import VirtualBranch, VirtualDoor
from drills.stage import SUM, SUM_IS
from errors import AgentError
from events import AttemptStarted, Stamped
from flow import Effect, Flow, Pause, RunTools, pause, together
from messages import CallResult, Reply
from models.chain import Converse, parse_chain
from models.exchange import call_ids
from models.practice import mind
from models.practice.protocol import sse_events
from models.sse import SseDecoder
from models.stream import StreamParser
from models.wire import params
from tools import Prepared, executing_all
from wiring import Agent, World

RATES = (0.0, 0.1, 0.2, 0.3, 0.5)
TROUBLES = ("passing", "outages")
SETUPS = ("no guards", "retries", "retries + breakers", "retries + breakers + fallbacks")
POINTS = len(TROUBLES) * len(SETUPS) * len(RATES)

QUESTIONS = 300
"""For each point of the chart."""

GAP_S = 20.0
"""From one question to the next."""

PERIOD_S = 1_200.0
"""In each such time every model has one outage; at a rate of 0.1 it lasts two minutes, at 0.5 ten."""

_GOLDEN = 0.6180339887498949
"""Outages of two models drift against each other by this share of the period: in a few periods they meet in
every way, as often as independent ones in very many."""

ANSWER_S = 0.8
"""What a healthy model takes."""

_FAILURES = ("overloaded", "server_error", "rate_limit", "protocol")
_SILENT_S = 1_000_000.0


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the chart.

    Args:
        trouble, setup, rate: which one.
        asked, survived: questions.
        requests: to models, a question.
        wait_s: mean seconds to an answer or an honest no.
    """

    trouble: str
    setup: str
    rate: float
    asked: int
    survived: int
    requests: float
    wait_s: float

    @property
    def share(self) -> float:
        """Of the questions that survived."""
        return self.survived / self.asked

    @property
    def shown(self) -> str:
        """The share in words; only all of them are 100 %."""
        return f"{self.share:.0%}" if self.survived in (0, self.asked) else f"{min(self.share, 0.999):.1%}"


def bound(questions: int) -> str:
    """What a share of 100 % means, in words."""
    return f"100 % is no failure in {questions} questions: it bounds their rate at {3 / questions:.2g} (3/N, 95 %)."


def chart(settings: Settings, seed: int, questions: int = QUESTIONS) -> Iterator[Point]:
    """Measure all points, setup by setup.

    Args:
        settings: the person's; their chain is asked without its keys, as simulated models.
        seed: of failures, outages and jitter.
        questions: for each point.
    """
    for trouble in TROUBLES:
        for setup in SETUPS:
            for rate in RATES:
                yield measure(_set_up(settings, setup), trouble, setup, rate, seed, questions)


def _set_up(settings: Settings, setup: str) -> Settings:
    links = parse_chain(settings.model_chain)
    plain = replace(
        settings, model_chain=",".join(link.name for link in links), anthropic_api_key="drill", gemini_api_key="drill",
        redis_url=None, rate_limit_per_minute=0.0,
    )  # fmt: skip
    if "retries" not in setup:
        plain = replace(plain, max_retries=0)
    if "breakers" not in setup:
        plain = replace(plain, breaker_failure_threshold=1_000_000_000, breakers=())
    if "fallbacks" not in setup:
        plain = replace(plain, model_chain=links[0].name)
    return plain


def measure(settings: Settings, trouble: str, setup: str, rate: float, seed: int, questions: int) -> Point:
    """One point: so many questions to one agent, one every `GAP_S`, whether the last has its answer or not.

    Were the next one to wait for the last, a long outage would spoil few questions: the fewer, the longer
    each waits for nothing.
    """
    world = _World(settings, trouble, rate, seed)
    took = world.ask_all(questions)
    survived = sum(
        report.status == "ok" and SUM_IS in report.text and s <= settings.total_timeout_s for report, s in took
    )
    return Point(
        trouble, setup, rate, questions, survived, world.attempts / questions, sum(s for _, s in took) / questions
    )


class _World(Agent):
    """The wired agent behind a virtual door, with models in trouble."""

    def __init__(self, settings: Settings, trouble: str, rate: float, seed: int) -> None:
        self.door: VirtualDoor = VirtualDoor({Converse: self._converse}, listeners=[self._hear])
        now = self.door.now
        world = World(now=now, wall=now, traces=lambda folder: _NoTraces())  # type: ignore[arg-type, return-value]
        super().__init__(settings, seed=seed, world=world)
        kept = dict.fromkeys((Checkpoint, RecordIntents, RecordOutcome), _kept)
        self.door.flows = {AskModel: self._asking, RunTools: self._running_tools, **kept}
        self.attempts = 0
        self._trouble, self._rate, self._replies = trouble, rate, _Replies()
        self._positions = {link.dependency: position for position, link in enumerate(self.links)}
        self._drawn = random.Random(f"{seed}/outages").random()
        self._failures = {link.dependency: random.Random(f"{seed}/{link.dependency}/{rate}") for link in self.links}

    def ask_all(self, questions: int) -> list[tuple[TurnReport, float]]:
        """Ask them all, each in a conversation of its own; how each ended, and after how many seconds."""
        flow = together([self._asked(number * GAP_S) for number in range(questions)])
        return self.door.run(flow)

    def _asked(self, after_s: float) -> Flow[tuple[TurnReport, float]]:
        yield from pause(after_s)
        begun_s, conversation = self.door.now(), Conversation("")
        turn = Turn.begin(conversation, SUM, "never", self.rules)
        report = yield from answering(turn, conversation, self.rules)
        return report, self.door.now() - begun_s

    def _running_tools(self, effect: RunTools) -> Flow[list[CallResult]]:
        calls: Sequence[Prepared] = effect.calls
        return executing_all(calls, Deadline(effect.deadline_at_s), self.settings.tool_timeout_s, self.door.now)

    def _hear(self, stamped: Stamped) -> None:
        self.attempts += isinstance(stamped.event, AttemptStarted) and stamped.event.dependency.startswith("model.")

    def _converse(self, effect: Converse, branch: VirtualBranch) -> Flow[Reply]:
        dependency = effect.link.dependency
        if self._trouble == "outages" and self._is_silent(dependency):
            yield Pause(_SILENT_S)
        yield Pause(ANSWER_S)
        draws = self._failures[dependency]
        if self._trouble == "passing" and draws.random() < self._rate:
            reason = draws.choice(_FAILURES)
            raise AgentError(f"{reason} (simulated)", reason=reason, dependency=dependency)
        branch.heard()
        return self._replies(effect)

    def _is_silent(self, dependency: str) -> bool:
        period, at_s = divmod(self.door.now(), PERIOD_S)
        step = self._positions[dependency] * _GOLDEN  # the first model's outages keep their place
        begins_s = (self._drawn + step * (period + 1)) % 1.0 * PERIOD_S
        return (at_s - begins_s) % PERIOD_S < PERIOD_S * self._rate


class _Replies:
    """What the practice model says, through the parser that reads the real ones; the same question is read once."""

    def __init__(self) -> None:
        self._known: dict[str, Reply] = {}

    def __call__(self, effect: Converse) -> Reply:
        body = params(effect.request, effect.link)
        key = json.dumps([body["model"], body["messages"]])
        if key not in self._known:
            decoder, parser = SseDecoder(), StreamParser(effect.link.name, call_ids(effect.request.messages))
            for name, data in decoder.feed(b"".join(sse_events(mind.think(body)))):
                parser.feed(name, data)
            self._known[key] = parser.finish()
        return self._known[key]


def _kept(effect: Effect) -> Flow[str]:
    """Says that it was kept."""
    yield from ()
    return ""


class _NoTraces:
    """Keeps nothing: a chart is thousands of questions."""

    def save(self, *_: Any) -> None:
        """Forget it."""

    def close(self, timeout_s: float) -> bool:
        return True
