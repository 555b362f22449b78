"""One question from start to end: ask the model, run its tools, until there is an answer or an honest end.  (floor 3)

    question -> ask the model -> what does its answer mean? -> answer
                     ^                    |
                     +---- run tools <----+        bounded: rounds, calls, corrections, pauses, time

`meaning_of` is the whole policy for how a reply is read. Nothing is an answer unless the
model ended properly, and no tool runs from a reply that was refused, cut or is unclear.
How turns end (status and exit code) is the table in docs/failures.md.

Every step is kept before the next one begins (`journal.py`), so a turn that a crash cut off goes
on from its last step: `resume.py` restores it, and `_rounds` finds the calls that were under way.

The turn works on its own copy of the history. `answering` hands it over at the end;
`closing` does so for a turn that was stopped from outside, as a second flow, because a
cancelled flow may not yield any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from core.conversation import (
    Conversation,
    closing_line,
    kept_after_failure,
    results_message,
    sendable,
    tokens_of,
    trimmed,
    with_sendable_calls,
)
from core.instructions import INSTRUCTIONS
from core.journal import LAST_WRITE_S, Checkpoint, Recorded, intending, recall, reconciling, write_s
from core.report import KNOWN_ENDS, TurnReport, answered, as_deadline, critical_error, ended, report_of
from core.resume import report_to_json, state_of
from core.stuck import REPEATS_MAX, REPEATS_TOLD, Circles
from deadline import OUTER_GRACE_S, Deadline
from errors import Advice, AgentError
from events import (
    HistoryTrimmed,
    NoticeGiven,
    RoundStarted,
    StuckNoticed,
    TurnCancelled,
    TurnPoisoned,
    TurnResumed,
    TurnStarted,
)
from flow import Effect, Flow, attempt, emit, run_tools, within
from messages import NO_USAGE, Block, CallResult, Message, ModelRequest, Reply, Text, ToolUse, Usage
from oversight.approvals import Approvals, ApproveMode, is_tainted
from safe_text import encodable, one_line
from tools import CALLS_PER_MESSAGE_MAX, Prepared, Toolbox, approving, prepare, result_of, telling_the_rest

ROUNDS_MAX = 12
CALLS_MAX = 40
CORRECTIONS_MAX = 3
PAUSES_MAX = 5
NUDGE = "[The last answer was empty. Please answer in words.]"


@dataclass(frozen=True, slots=True)
class AskModel(Effect):
    """Ask the chain of models; answered by a Reply. The door runs `models/chain` for it."""

    request: ModelRequest
    deadline: Deadline


@dataclass(frozen=True, slots=True)
class Rules:
    """What one agent's turns work with.

    Args:
        toolbox: the tools.
        now: the monotonic clock.
        total_s: time of one question.
        tool_s: time of one whole tool call.
        max_tokens: of one model answer.
        window_tokens: of the smallest model in the chain.
    """

    toolbox: Toolbox
    now: Callable[[], float]
    total_s: float = 120.0
    tool_s: float = 10.0
    max_tokens: int = 16384
    window_tokens: int = 1_000_000


class Meaning(Enum):
    """What a reply asks for next."""

    ANSWER = auto()
    TOOLS = auto()
    PAUSED = auto()  # the model wants to go on: send its turn back as it came
    EMPTY = auto()  # properly ended, but nothing said: one nudge
    AGAIN = auto()  # void: ask the same once more
    TOO_LONG = auto()  # the window is full: trim and once more
    REFUSED = auto()


def meaning_of(reply: Reply) -> Meaning:
    """Read a complete reply. The order of the lines is the policy."""
    reason = reply.stop_reason
    if reason == "refusal":
        return Meaning.REFUSED
    if reason == "model_context_window_exceeded":
        return Meaning.TOO_LONG
    if reason == "max_tokens":
        return Meaning.ANSWER if reply.text.strip() and not reply.tool_uses else Meaning.AGAIN
    if reply.tool_uses:
        return Meaning.TOOLS if reason in KNOWN_ENDS else Meaning.AGAIN
    if reason == "pause_turn":
        return Meaning.PAUSED
    if reason == "tool_use":
        return Meaning.AGAIN
    return Meaning.ANSWER if reply.text.strip() else Meaning.EMPTY


@dataclass(slots=True)
class Turn:
    """One question under way: its copy of the history and its counters. Changed only between yields.

    `starts` counts how often it was taken up: once, and once more after each crash. `recorded` is what
    the journal knows of its calls from before. `only` names the tools it may use, none for all.
    `censored` says that the question as it was kept lacks a secret it had when it was asked.
    """

    id: str
    question: str
    before: tuple[Message, ...]
    approvals: Approvals
    deadline: Deadline
    started_s: float
    messages: tuple[Message, ...] = ()
    paused: tuple[Block, ...] = ()
    batch: list[Prepared] = field(default_factory=list)
    batch_blocks: tuple[Block, ...] = ()
    results: list[CallResult] = field(default_factory=list)
    calls_left: int = CALLS_MAX
    usage: Usage = NO_USAGE
    cost_usd: float | None = 0.0
    model: str | None = None
    rounds: int = 0
    corrections: dict[str, int] = field(default_factory=dict)
    again: int = 0
    nudges: int = 0
    nudging: bool = False
    pauses: int = 0
    tokens_max: int = 0
    trims: int = 0
    left_out: int = 0
    nobody: bool = False
    circles: Circles = field(default_factory=Circles)
    starts: int = 1
    censored: bool = False
    task_id: str = ""
    only: list[str] = field(default_factory=list)
    recorded: Mapping[str, Recorded] = field(default_factory=dict)
    report: TurnReport | None = None

    @classmethod
    def begin(
        cls,
        conversation: Conversation,
        question: str,
        mode: ApproveMode,
        rules: Rules,
        *,
        id: str = "",
        task_id: str = "",
    ) -> Turn:
        """A turn on a copy of the conversation's history."""
        now_s = rules.now()
        before = conversation.messages
        asked = Message("user", (Text(encodable(question)),))
        return cls(
            id, question, before, Approvals(mode), Deadline.after(now_s, rules.total_s), now_s,
            messages=(*before, asked), tokens_max=rules.window_tokens - rules.max_tokens,
            task_id=task_id,
        )  # fmt: skip

    def move_to(self, conversation: Conversation) -> None:
        """Begin on this history instead; nothing was asked yet."""
        self.before, self.messages = conversation.messages, (*conversation.messages, self.messages[-1])


# --- the flows ------------------------------------------------------------------------------------------


def answering(turn: Turn, conversation: Conversation, rules: Rules) -> Flow[TurnReport]:
    """Answer one question. Never raises: every end is a TurnReport."""
    yield from emit(TurnStarted(turn.question, rules.total_s))
    if turn.starts > 1:
        yield from emit(TurnResumed(turn.question, turn.rounds, len(turn.recorded)))
    try:
        limit_s = turn.deadline.left_s(rules.now()) + OUTER_GRACE_S
        reply = yield from attempt(_rounds(turn, conversation.session_id, rules), limit_s)
    except AgentError as error:
        report = yield from _failing(turn, as_deadline(turn, error, rules), rules)
    except Exception as error:  # the last boundary: a mistake of ours fails this turn, not the chat
        internal = AgentError(f"a mistake in this program: {type(error).__name__}: {one_line(str(error))}")
        report = yield from _failing(turn, internal, rules)
    else:
        report = answered(turn, reply, rules)
    yield from _ending(turn, conversation, report, rules)
    return report


def closing(turn: Turn, conversation: Conversation, rules: Rules) -> Flow[TurnReport]:
    """End a turn that was stopped from outside: repair the history, say what was kept.

    One that had its end already, and was stopped while that was put on record, keeps it.
    """
    if turn.report is not None:
        yield from _ending(turn, conversation, turn.report, rules)
        return turn.report
    yield from _settling(turn, rules)
    report = report_of(turn, "cancelled", "", rules)
    yield from emit(TurnCancelled(closing_line(turn.results)))
    yield from _ending(turn, conversation, report, rules)
    return report


def give_up(turn: Turn, conversation: Conversation, rules: Rules) -> None:
    """Close a turn that a crash cut off and that nobody wants any more: what it wrote stays known."""
    _take_up(turn, rules)
    _settled(turn)
    conversation.messages = kept_after_failure(turn.before, turn.messages, turn.results)


def refusing(turn: Turn, conversation: Conversation, rules: Rules, error: AgentError) -> Flow[TurnReport]:
    """End a turn without asking any model: why is in `error`."""
    yield from emit(TurnStarted(turn.question, rules.total_s))
    report = yield from _failing(turn, error, rules)
    if error.reason == "poison":
        yield from emit(TurnPoisoned(turn.question, turn.starts - 1))
    yield from _ending(turn, conversation, report, rules)
    return report


def repeating(turn: Turn, report: TurnReport, rules: Rules) -> Flow[TurnReport]:
    """Give the answer that a task was given before."""
    yield from emit(TurnStarted(turn.question, rules.total_s))
    yield from emit(NoticeGiven("This task was answered before; this is that answer, and no model was asked."))
    yield from emit(ended(report))
    return report


def _failing(turn: Turn, error: AgentError, rules: Rules) -> Flow[TurnReport]:
    yield from _settling(turn, rules)
    return replace(report_of(turn, "failed", "", rules), error=error)


def _ending(turn: Turn, conversation: Conversation, report: TurnReport, rules: Rules) -> Flow[None]:
    turn.report = report
    if report.status in ("failed", "cancelled"):
        conversation.messages = kept_after_failure(turn.before, turn.messages, turn.results)
    else:
        conversation.messages = turn.messages
    is_answer = turn.task_id and report.status in ("ok", "degraded")
    yield Checkpoint(
        conversation.session_id,
        turn.id,
        conversation.messages,
        max(LAST_WRITE_S, write_s(turn.deadline, rules.now())),
        turn.question,
        status=report.status,
        task_id=turn.task_id,
        report=report_to_json(report) if is_answer else None,
    )
    yield from emit(ended(report))


def _keeping(turn: Turn, session_id: str, rules: Rules) -> Flow[str]:
    """Keep how far the question has come; "" or what went wrong."""
    limit_s = write_s(turn.deadline, rules.now())
    problem: str = yield Checkpoint(
        session_id, turn.id, turn.messages, limit_s, turn.question, state_of(turn), task_id=turn.task_id
    )
    return problem


def _rounds(turn: Turn, session_id: str, rules: Rules) -> Flow[Reply]:
    """Ask and run tools until a reply is the answer. Raises AgentError for every other end."""
    if not turn.question.strip():
        raise AgentError("the question is empty", reason="bad_input", what_now="Ask something.")
    if turn.batch_blocks:  # calls were under way when a crash cut it off
        yield from _running_tools(turn, session_id, rules)
    else:
        yield from _keeping(turn, session_id, rules)
    while True:
        reply = yield from _asking(turn, rules)
        match meaning_of(reply):
            case Meaning.ANSWER:
                return reply
            case Meaning.EMPTY if any(isinstance(block, Text) for block in turn.paused):
                return reply  # everything was said before the pause
            case Meaning.TOOLS:
                turn.batch_blocks = with_sendable_calls(sendable((*turn.paused, *reply.blocks)), turn.messages)
                turn.paused = ()
                yield from _running_tools(turn, session_id, rules)
            case Meaning.PAUSED:
                _continue_paused(turn, reply)
            case Meaning.EMPTY:
                turn.nudges, turn.nudging = turn.nudges + 1, True
                _bounded(turn.nudges, 1, "the model gave no answer, also after being asked again", "limit")
            case Meaning.AGAIN:
                turn.again += 1
                _bounded(turn.again, 1, _void_words(reply), "limit")
            case Meaning.TOO_LONG:
                yield from _trimming(turn, AgentError("the conversation is too long for the model", reason="too_large"))
            case Meaning.REFUSED:
                raise AgentError("the model declined to answer this", reason="refusal", what_now="Ask differently.")


def _asking(turn: Turn, rules: Rules) -> Flow[Reply]:
    while True:
        turn.rounds += 1
        _bounded(turn.rounds, ROUNDS_MAX, f"no answer after {ROUNDS_MAX} rounds with the model", "limit")
        yield from emit(RoundStarted(turn.rounds))
        request = yield from _request(turn, rules)
        try:
            reply: Reply = yield from within({"round": turn.rounds}, _ask(request, turn.deadline))
        except AgentError as error:
            if error.verdict.advice is not Advice.TRIM:
                raise
            yield from _trimming(turn, error)
            continue
        turn.usage, turn.model = turn.usage.plus(reply.usage), reply.link or reply.model
        unknown = turn.cost_usd is None or reply.cost_usd is None
        turn.cost_usd = None if unknown else (turn.cost_usd or 0.0) + (reply.cost_usd or 0.0)
        return reply


def _ask(request: ModelRequest, deadline: Deadline) -> Flow[Reply]:
    reply: Reply = yield AskModel(request, deadline)
    return reply


def _request(turn: Turn, rules: Rules) -> Flow[ModelRequest]:
    messages = trimmed(turn.messages, turn.tokens_max)
    left_out = len(turn.messages) - len(messages)
    if left_out > turn.left_out:
        yield from emit(HistoryTrimmed(left_out))
    turn.left_out = left_out
    if turn.nudging and not turn.paused:
        turn.nudging = False
        messages = (*messages[:-1], replace(messages[-1], blocks=(*messages[-1].blocks, Text(NUDGE))))
    if turn.paused:
        messages = (*messages, Message("assistant", turn.paused))
    return ModelRequest(INSTRUCTIONS, messages, _tools(turn, rules).specs, rules.max_tokens)


def _trimming(turn: Turn, error: AgentError) -> Flow[None]:
    """Once a question: send half of the history, or say that even the question alone is too long."""
    turn.trims += 1
    sent = trimmed(turn.messages, turn.tokens_max)
    half = trimmed(sent, _half_of(sent))
    if turn.trims > 1 or len(half) == len(sent):
        error.what_now = error.what_now or "Ask a shorter question or start anew with /new."
        raise error
    turn.tokens_max = _half_of(sent)
    yield from emit(NoticeGiven("The conversation was too long for the model: its oldest half is left out."))


def _half_of(messages: tuple[Message, ...]) -> int:
    return tokens_of(messages) // 2


def _continue_paused(turn: Turn, reply: Reply) -> None:
    turn.pauses += 1
    _bounded(turn.pauses, PAUSES_MAX, f"the model paused more than {PAUSES_MAX} times", "limit")
    turn.paused += tuple(block for block in reply.blocks if not isinstance(block, Text) or block.text.strip())
    if not turn.paused:
        raise AgentError("the model paused without having said anything", reason="protocol")


def _running_tools(turn: Turn, session_id: str, rules: Rules) -> Flow[None]:
    """Run the calls in the blocks under way: for the first time, or what a crash left of them."""
    doubtful = _take_up(turn, rules)
    calls = [one.call for one in turn.batch]
    problem = yield from _keeping(turn, session_id, rules)
    if turn.calls_left <= 0:
        raise AgentError(f"more than {CALLS_MAX} tool calls in one question", reason="limit")
    turn.calls_left -= min(len(calls), CALLS_PER_MESSAGE_MAX)
    yield from _notice_circles(turn, calls)
    yield from reconciling(doubtful)
    nobody = yield from approving(turn.batch, turn.approvals, turn.deadline, rules.now)
    turn.nobody = turn.nobody or nobody
    yield from intending(session_id, turn.id, turn.batch, write_s(turn.deadline, rules.now()), problem)
    yield from run_tools(turn.batch, turn.deadline.at_s)
    results = yield from _settling(turn, rules)
    for result in results:
        if result.fatal:
            raise critical_error(result)
    # One correction is one message, however many calls in it were wrong in the same way.
    for wrong in {result.call.name: result for result in results if result.status == "invalid"}.values():
        _count_correction(turn, wrong)
    yield from _keeping(turn, session_id, rules)


def _take_up(turn: Turn, rules: Rules) -> list[Prepared]:
    """Prepare the calls under way, with what is on record of them; returns those that must be looked at."""
    calls = [block for block in turn.batch_blocks if isinstance(block, ToolUse)]
    tainted = is_tainted(trimmed(turn.messages, turn.tokens_max))
    tools = _tools(turn, rules)
    turn.batch = prepare(calls, tools, tainted=tainted, calls_left=turn.calls_left, earlier=turn.results)
    return recall(turn.batch, turn.recorded)


def _tools(turn: Turn, rules: Rules) -> Toolbox:
    return Toolbox(one for one in rules.toolbox if one.name in turn.only) if turn.only else rules.toolbox


def _settling(turn: Turn, rules: Rules) -> Flow[list[CallResult]]:
    """Close the batch under way, and tell of the calls in it that could not tell themselves how they ended."""
    if turn.recorded and not turn.batch:  # cut off by a crash, and not taken up again
        _take_up(turn, rules)
    batch = turn.batch
    results = _settled(turn)
    yield from telling_the_rest(batch)
    return results


def _settled(turn: Turn) -> list[CallResult]:
    """Close the batch under way: every call has a result, and the pair enters the turn's history."""
    if not turn.batch:
        return []
    results = [result_of(one) for one in turn.batch]
    turn.messages = (*turn.messages, Message("assistant", turn.batch_blocks), results_message(results))
    turn.results.extend(results)
    turn.batch, turn.batch_blocks = [], ()
    return results


def _notice_circles(turn: Turn, calls: Sequence[ToolUse]) -> Flow[None]:
    repeats = turn.circles.seen(calls)
    if repeats < REPEATS_TOLD:
        return
    names = ", ".join(dict.fromkeys(one_line(call.name, 40) for call in calls))
    yield from emit(StuckNoticed(f"the same calls again ({names}), {repeats} times in a row"))
    _bounded(repeats, REPEATS_MAX - 1, f"the model goes round in circles: {names}, {repeats} times in a row", "limit")
    for one in turn.batch:
        if one.result is None:
            why = "Not run: this is the same call again. Its answer stands above; answer the user with what you have."
            one.unrun("skipped", why)


def _count_correction(turn: Turn, result: CallResult) -> None:
    count = turn.corrections[result.call.name] = turn.corrections.get(result.call.name, 0) + 1
    _bounded(
        count, CORRECTIONS_MAX, f"the model could not correct its input to {one_line(result.call.name, 40)}: "
        f"{one_line(result.output)}", "bad_input",
    )  # fmt: skip


def _bounded(count: int, limit: int, message: str, reason: str) -> None:
    if count > limit:
        raise AgentError(message, reason=reason)


def _void_words(reply: Reply) -> str:
    if reply.stop_reason == "max_tokens":
        return "the answer was cut off by MAX_TOKENS before it was complete; raise MAX_TOKENS or ask for less"
    return f"the model ended unclearly ({one_line(reply.stop_reason, 40)}), also when asked again"
