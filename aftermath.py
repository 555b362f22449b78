"""What follows a question: what failed for good is kept and told, what is missing can be had later.  (floor 5)

    turn ended -> final?    -> a dead letter in the sessions file -> DeadLettered, AlertRaised -> screen, log, metrics
                                                                  -> the webhook, aside (`alerter.py`)
               -> degraded? -> offered: `/later` parks what is missing (`later.py`)

It runs after the question has its end, so nothing here can change an answer; what goes wrong is said and
that is all. Either can be an errand of a later question: a dead letter is asked again, in the session one
is in then, and an answer settles it while another final failure is written over it; a parked part is
asked for with the tools it needs. Which failures are final is decided in `core/letters.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from alerter import Alerter
from core.journal import LAST_WRITE_S, write_s
from core.later import Parked
from core.letters import Letter, is_final, letter_of
from core.report import TurnReport
from core.resume import CutOff
from core.turn import Turn
from errors import AgentError, ConfigurationError
from events import AlertRaised, DeadLettered, StoreFailed
from flow import Flow, emit
from guard import Guards
from later import Later
from oversight.alerts import Alert
from safe_text import one_line
from stores import dead_letters
from stores.sessions import READ_S_MAX, SessionStore
from version import VERSION

PROGRAM = f"Unflappable {VERSION}"
ANSWERED = ("ok", "degraded")


Errand: TypeAlias = Letter | Parked
"""What a question is to settle: a dead letter that is asked again, or a parked part that is filled in."""


class Aftermath:
    """The dead letters, alerts and parked parts of one agent.

    Args:
        store: where they are kept.
        guards: tell which tools work again.
        alerter: sends alerts.
        now, wall: the clocks, in seconds.
    """

    def __init__(
        self,
        store: SessionStore,
        guards: Guards,
        alerter: Alerter,
        now: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._store, self._now, self._wall = store, now, wall
        self.alerter = alerter
        self.later = Later(store, guards, now, wall)
        self._letter: Letter | None = None
        self._given_up: CutOff | None = None

    # --- around a question -------------------------------------------------------------------------------

    def around(
        self, flow: Flow[TurnReport], turn: Turn, session_id: str, errand: Errand | None, given_up: CutOff | None
    ) -> Flow[TurnReport]:
        """The flow of a question that begins, with its errand noted.

        Args:
            flow, turn, session_id: the question, and where it is asked.
            errand: what it is to settle.
            given_up: a question that had ended the program too often, and is closed in favour of this one.
        """
        self._letter = errand if isinstance(errand, Letter) else None
        self._given_up = given_up
        if not isinstance(errand, Parked):
            return flow
        turn.only = list(errand.tools)
        return self.later.filling(flow, errand, turn, session_id)

    def following(self, turn: Turn, report: TurnReport, session_id: str, trace_id: str, attempts: int) -> Flow[None]:
        """Do what has to be done after a question. Never raises.

        Args:
            turn, report: the question, and how it ended.
            session_id, trace_id: where.
            attempts: how often a model was tried.
        """
        limit_s = max(LAST_WRITE_S, write_s(turn.deadline, self._now()))
        error = report.error if report.status == "failed" else None
        self.later.note(turn, report, session_id)
        try:
            yield from self.later.following(turn, report, limit_s)
            if self._given_up is not None:
                poison = _poison(self._given_up)
                yield from self._burying(self._letter_of(self._given_up, poison, session_id, trace_id), None, limit_s)
            if self._letter is not None and report.status in ANSWERED:
                yield from self.settling(self._letter.number, "answered", limit_s)
            elif error is not None and is_final(error):
                letter = self._letter_of(turn, error, session_id, trace_id, report, attempts)
                yield from self._burying(letter, self._letter, limit_s)
        except Exception as problem:  # the last wall: the question has its end already, and it stands
            said = problem.message if isinstance(problem, AgentError) else f"{type(problem).__name__}: {problem}"
            yield from emit(StoreFailed("what follows this question", one_line(said)))

    def _letter_of(
        self,
        turn: Turn | CutOff,
        error: AgentError,
        session_id: str,
        trace_id: str,
        report: TurnReport | None = None,
        attempts: int = 0,
    ) -> Letter:
        return letter_of(
            error,
            turn.question,
            report.tool_calls if report else (),
            session_id=session_id,
            turn_id=turn.id,
            trace_id=trace_id,
            attempts=attempts,
            when_s=self._wall(),
            program=PROGRAM,
        )

    def _burying(self, letter: Letter, asked_again: Letter | None, limit_s: float) -> Flow[None]:
        number, problem = None, ""
        again = asked_again.number if asked_again else None
        try:
            buried = yield from self._store.transacting(
                lambda connection: dead_letters.bury(connection, letter, again), limit_s
            )
        except AgentError as error:
            problem = one_line(error.message)
        else:
            if not buried.is_new:
                return
            number = buried.number
            yield from emit(DeadLettered(number, letter.error_type, buried.dropped))
        if problem and not self._store.off:  # what is off has said so
            yield from emit(StoreFailed("a dead letter", problem))
        yield from emit(AlertRaised(letter.error_type, letter.error_kind, letter.message, letter.what_now, number))
        self.alerter.send(
            Alert(
                letter.error_type, letter.error_kind, letter.message, letter.what_now,
                letter.session_id, letter.trace_id, letter.when_s, letter.program,
            )
        )  # fmt: skip

    # --- for a person ------------------------------------------------------------------------------------

    def listing(self) -> Flow[tuple[list[Letter], int]]:
        """The letters nobody has seen to yet, the newest first, and how many are damaged. Raises AgentError."""
        return self._store.transacting(dead_letters.listing)

    def finding(self, number: int) -> Flow[Letter]:
        """The letter with this number. Raises ConfigurationError when there is none, AgentError."""
        return self._store.transacting(lambda connection: dead_letters.find(connection, number))

    def asking_again(self, number: int) -> Flow[Letter]:
        """The letter whose question can be asked again. Raises ConfigurationError when it cannot, AgentError."""
        letter = yield from self.finding(number)
        if not letter.is_whole:
            words = f"the question of dead letter {number} was too long to be kept whole"
            raise ConfigurationError(words, what_now="Ask it yourself.")
        return letter

    def settling(self, number: int, state: str, limit_s: float = READ_S_MAX) -> Flow[None]:
        """Close a letter, as `answered` or `dropped`. Raises ConfigurationError when there is none, AgentError."""
        return self._store.transacting(lambda connection: dead_letters.settle(connection, number, state), limit_s)


def _poison(cut: CutOff) -> AgentError:
    words = f"this question ended the program {cut.crashes} times; another was asked in its place"
    return AgentError(words, reason="poison", what_now="Ask differently.")
