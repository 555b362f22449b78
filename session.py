"""The session an agent is in: what was said so far, what a crash cut off, and which task it works on.  (floor 5)

    asking     a new question; what was cut off before is given up, what it wrote stays known
    resuming   what was cut off goes on where it stood
    a task     a question with an id of the caller's: asked again, its stored answer is given. One
               that was cut off is resumed, one that another process works on is waited for.

Questions that failed are not answers: a task that failed is tried again, in the session where it
was tried before, so that what it wrote is known there. What this does not do: store anything
itself (`stores/sessions.py`), or run a turn (`core/turn.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from core.conversation import Conversation
from core.journal import LAST_WRITE_S, Checkpoint, write_s
from core.report import TurnReport, ended, report_of
from core.resume import CRASHES_MAX, CutOff, report_from_json, restore
from core.turn import Rules, Turn, answering, closing, give_up, refusing, repeating
from errors import AgentError, ConfigurationError
from events import TurnCancelled
from flow import Flow, emit, pause
from oversight.approvals import ApproveMode
from safe_text import one_line
from stores.session_rows import SessionInfo
from stores.sessions import READ_S_MAX, Opened, SessionStore
from tools import result_of

TASK_ID_CHARS_MAX = 200
ASK_AGAIN_S = 0.25
"""How often to look whether another process has finished the same task."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A question that a crash cut off: `crashes` is how often; one that did so too often is only closed."""

    question: str
    crashes: int
    is_poison: bool


class Session:
    """One agent's session, and the way to another.

    Args:
        store: where it is kept.
        rules: of its turns.
        new_id: draws an id.
    """

    def __init__(self, store: SessionStore, rules: Rules, new_id: Callable[[], str]) -> None:
        self._store, self._rules, self._new_id = store, rules, new_id
        self._cut: CutOff | None = None
        self._step: Checkpoint | None = None  # the last one, written or not
        self.conversation = Conversation(new_id())

    @property
    def id(self) -> str:
        """Its id."""
        return self.conversation.session_id

    @property
    def unfinished(self) -> Unfinished | None:
        """What was cut off in it and can be resumed."""
        cut = self._cut
        return Unfinished(cut.question, cut.crashes, cut.is_poison) if cut else None

    @property
    def cut_off(self) -> CutOff | None:
        """The same with all that is known of it."""
        return self._cut

    def renew(self) -> None:
        """Begin another session; this one stays in the store."""
        self._store.leave(self.id)
        self._cut, self.conversation = None, Conversation(self._new_id())

    def listing(self, limit: int) -> Flow[list[SessionInfo]]:
        """The sessions last used, newest first."""
        return self._store.listing(limit)

    def opening(self, which: str) -> Flow[Unfinished | None]:
        """Change to another session; what was cut off in it. Errors as of `SessionStore.opening`."""
        if which == self.id:
            return self.unfinished
        opened = yield from self._store.opening(which)
        if opened.id != self.id:
            self._enter(opened)
        return self.unfinished

    def _enter(self, opened: Opened) -> None:
        self._store.leave(self.id)
        self.conversation = Conversation(opened.id, opened.messages)
        self._cut = opened.cut

    # --- questions ---------------------------------------------------------------------------------------

    def begin(self, question: str, mode: ApproveMode, turn_id: str, task_id: str = "") -> None:
        """Take up a question; `asking` answers it. What was cut off before is given up.

        Raises ConfigurationError for an id no task can have.
        """
        if len(task_id) > TASK_ID_CHARS_MAX or (task_id and not task_id.strip()):
            raise ConfigurationError(
                f"the task id {one_line(task_id, 40)!r} is empty or longer than {TASK_ID_CHARS_MAX} characters",
                what_now="Choose another.",
            )
        self.turn = Turn.begin(self.conversation, question, mode, self._rules, id=turn_id, task_id=task_id)
        self._settle_in()

    def _settle_in(self) -> None:
        """Begin the turn on the history of this session: what was cut off goes on if it is the same task.

        Without a yield, so that a stop never finds the turn of one session in another.
        """
        turn = self.turn
        if self._cut is not None:
            cut_off = self._restored(turn.approvals.mode)
            if cut_off.task_id and (cut_off.task_id, cut_off.question) == (turn.task_id, turn.question):
                cut_off.deadline, self.turn = turn.deadline, cut_off
                return
            give_up(cut_off, self.conversation, self._rules)
        turn.move_to(self.conversation)

    def take_up(self, mode: ApproveMode) -> None:
        """Take up what was cut off; `resuming` answers it. Raises ConfigurationError when there is nothing."""
        if self._cut is None:
            raise ConfigurationError("no question was cut off in this session", what_now="/sessions lists the others.")
        self.turn = self._restored(mode)

    def _restored(self, mode: ApproveMode) -> Turn:
        cut, self._cut = self._cut, None
        assert cut is not None
        return restore(Turn.begin(self.conversation, cut.question, mode, self._rules, id=cut.id), cut)

    def asking(self) -> Flow[TurnReport]:
        """Answer the question begun. Never raises: every end is a TurnReport."""
        if self.turn.task_id:
            try:
                report = yield from self._claiming(self.turn)
            except AgentError as error:
                return (yield from refusing(self.turn, self.conversation, self._rules, error))
            if report is not None:
                return (yield from repeating(self.turn, report, self._rules))
        return (yield from self.resuming())

    def resuming(self) -> Flow[TurnReport]:
        """Go on with the question taken up, unless that would not be it any more, or would end the program again."""
        turn, crashes = self.turn, self.turn.starts - 1
        if crashes >= CRASHES_MAX:
            words = f"this question ended the program {crashes} times; it is not tried again"
            error = AgentError(words, reason="poison", what_now="Ask differently.")
        elif turn.censored:  # a note of it would be saved with a gap, and called saved
            words = "this question held a secret, which is not kept on disk: it cannot be taken up again"
            error = AgentError(words, reason="bad_input", what_now="Ask it again.")
        else:
            return (yield from answering(turn, self.conversation, self._rules))
        return (yield from refusing(turn, self.conversation, self._rules, error))

    def closing(self) -> Flow[TurnReport]:
        """End a question that was stopped from outside."""
        return closing(self.turn, self.conversation, self._rules)

    def checkpointing(self, effect: Checkpoint) -> Flow[str]:
        """Keep a checkpoint; "" or what went wrong."""
        self._step = effect
        return self._store.checkpointing(effect)

    def leaving(self) -> Flow[TurnReport]:
        """End a question because the program is told to end: it stays open, and the next start finishes it."""
        turn, step = self.turn, self._step
        if step is None or step.turn_id != turn.id or step.state is None:  # nothing was done yet, or it has its end
            return (yield from self.closing())
        # The last step kept is where it goes on; only that being told to end is no crash.
        state = {**step.state, "starts": max(1, turn.starts - 1)}
        limit_s = max(LAST_WRITE_S, write_s(turn.deadline, self._rules.now()))
        problem: str = yield replace(step, state=state, limit_s=limit_s)
        if problem or self._store.off:
            return (yield from self.closing())
        calls = (*turn.results, *map(result_of, turn.batch))
        report = replace(report_of(turn, "cancelled", "", self._rules), tool_calls=calls)
        yield from emit(TurnCancelled(f"the question is kept: --resume {self.id} goes on with it"))
        yield from emit(ended(report))
        return report

    def _claiming(self, turn: Turn) -> Flow[TurnReport | None]:
        """Make the task ours; its answer, when it has one. Waits for another process that works on it."""
        while True:
            limit_s = min(READ_S_MAX, turn.deadline.left_s(self._rules.now()))
            task = yield from self._store.claiming(turn.task_id, turn.question, self.id, limit_s)
            if task.report is not None:
                return report_from_json(task.report)
            if task.session_id == self.id:
                return None
            opened = yield from self._store.entering(task.session_id, limit_s)
            if opened is not None:
                self._enter(opened)
                self._settle_in()  # and ask again: it may have been answered just before
            elif turn.deadline.fits(self._rules.now(), ASK_AGAIN_S):
                yield from pause(ASK_AGAIN_S)
            else:
                words = f"another process is at work on the task {one_line(turn.task_id, 60)}"
                raise AgentError(words, reason="timeout", what_now="Ask again later.")
