"""One question from start to end: ask the model, run its tools, until there is an answer or an honest end.  (floor 3)

    question -> ask the model -> what does its answer mean? -> answer
                     ^                    |
                     +---- run tools <----+        bounded: rounds, calls, corrections, pauses, time

`meaning_of` is the whole policy for how a reply is read. Nothing is an answer unless the
model ended properly, and no tool runs from a reply that was refused, cut or is unclear.
How turns end (status and exit code) is the table in docs/failures.md.

The turn works on its own copy of the history. `answering` hands it over at the end;
`closing` does so for a turn that was stopped from outside, as a second flow, because a
cancelled flow may not yield any more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from core.conversation import (
    Checkpoint,
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
from core.stuck import REPEATS_MAX, REPEATS_TOLD, Circles
from deadline import OUTER_GRACE_S, Deadline
from errors import Advice, AgentError, AttemptTimedOut, DeadlineExceeded
from events import (
    HistoryTrimmed,
    NoticeGiven,
    RoundStarted,
    StuckNoticed,
    TurnCancelled,
    TurnEnded,
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
class TurnReport:
    """How a question ended, for the person, the JSON report and the trace."""

    status: str
    text: str
    model: str | None
    tool_calls: tuple[CallResult, ...]
    degraded: tuple[str, ...]
    usage: Usage
    cost_usd: float | None
    duration_ms: int
    error: AgentError | None = None


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


KNOWN_ENDS = ("end_turn", "stop_sequence", "tool_use", "pause_turn")


@dataclass(slots=True)
class Turn:
    """One question under way: its copy of the history and its counters. Changed only between yields."""

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

    @classmethod
    def begin(cls, conversation: Conversation, question: str, mode: ApproveMode, rules: Rules) -> Turn:
        """A turn on a copy of the conversation's history."""
        now_s = rules.now()
        before = conversation.messages
        asked = Message("user", (Text(encodable(question)),))
        return cls(
            question, before, Approvals(mode), Deadline.after(now_s, rules.total_s), now_s,
            messages=(*before, asked), tokens_max=rules.window_tokens - rules.max_tokens,
        )  # fmt: skip


# --- the flows ------------------------------------------------------------------------------------------


def answering(turn: Turn, conversation: Conversation, rules: Rules) -> Flow[TurnReport]:
    """Answer one question. Never raises: every end is a TurnReport."""
    yield from emit(TurnStarted(turn.question, rules.total_s))
    try:
        reply = yield from attempt(_rounds(turn, rules), rules.total_s + OUTER_GRACE_S)
    except AgentError as error:
        report = yield from _failing(turn, _as_deadline(turn, error, rules), rules)
    except Exception as error:  # the last boundary: a mistake of ours fails this turn, not the chat
        internal = AgentError(f"a mistake in this program: {type(error).__name__}: {one_line(str(error))}")
        report = yield from _failing(turn, internal, rules)
    else:
        report = _answered(turn, reply, rules)
    yield from _ending(turn, conversation, report)
    return report


def closing(turn: Turn, conversation: Conversation, rules: Rules) -> Flow[TurnReport]:
    """End a turn that was stopped from outside: repair the history, say what was kept."""
    yield from _settling(turn)
    report = _report(turn, "cancelled", "", rules)
    yield from emit(TurnCancelled(closing_line(turn.results)))
    yield from _ending(turn, conversation, report)
    return report


def _ending(turn: Turn, conversation: Conversation, report: TurnReport) -> Flow[None]:
    if report.status in ("failed", "cancelled"):
        conversation.messages = kept_after_failure(turn.before, turn.messages, turn.results)
    else:
        conversation.messages = turn.messages
    yield Checkpoint(conversation.session_id, conversation.messages)
    error = report.error
    yield from emit(
        TurnEnded(
            report.status, report.text, report.model, report.usage, report.cost_usd, report.degraded,
            error.type if error else None, error.kind.value if error else None,
            error.message if error else None, error.what_now if error else None,
        )
    )  # fmt: skip


def _rounds(turn: Turn, rules: Rules) -> Flow[Reply]:
    """Ask and run tools until a reply is the answer. Raises AgentError for every other end."""
    if not turn.question.strip():
        raise AgentError("the question is empty", reason="bad_input", what_now="Ask something.")
    while True:
        reply = yield from _asking(turn, rules)
        match meaning_of(reply):
            case Meaning.ANSWER:
                return reply
            case Meaning.EMPTY if any(isinstance(block, Text) for block in turn.paused):
                return reply  # everything was said before the pause
            case Meaning.TOOLS:
                yield from _running_tools(turn, reply, rules)
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
    return ModelRequest(INSTRUCTIONS, messages, rules.toolbox.specs, rules.max_tokens)


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


def _running_tools(turn: Turn, reply: Reply, rules: Rules) -> Flow[None]:
    blocks = with_sendable_calls(sendable((*turn.paused, *reply.blocks)), turn.messages)
    calls = tuple(block for block in blocks if isinstance(block, ToolUse))
    seen = trimmed(turn.messages, turn.tokens_max)
    turn.batch = prepare(calls, rules.toolbox, tainted=is_tainted(seen), calls_left=turn.calls_left)
    turn.batch_blocks, turn.paused = blocks, ()
    if turn.calls_left <= 0:
        raise AgentError(f"more than {CALLS_MAX} tool calls in one question", reason="limit")
    turn.calls_left -= min(len(calls), CALLS_PER_MESSAGE_MAX)
    yield from _notice_circles(turn, calls)
    nobody = yield from approving(turn.batch, turn.approvals, turn.deadline, rules.now)
    turn.nobody = turn.nobody or nobody
    yield from run_tools(turn.batch, turn.deadline.at_s)
    results = yield from _settling(turn)
    for result in results:
        if result.fatal:
            raise _critical(result)
    # One correction is one message, however many calls in it were wrong in the same way.
    for wrong in {result.call.name: result for result in results if result.status == "invalid"}.values():
        _count_correction(turn, wrong)


def _settling(turn: Turn) -> Flow[list[CallResult]]:
    """Close the batch under way: every call has a result, the pair enters the turn's history, all is told."""
    batch = turn.batch
    if not batch:
        return []
    results = [result_of(one) for one in batch]
    turn.messages = (*turn.messages, Message("assistant", turn.batch_blocks), results_message(results))
    turn.results.extend(results)
    turn.batch, turn.batch_blocks = [], ()
    yield from telling_the_rest(batch)
    return results


def _notice_circles(turn: Turn, calls: tuple[ToolUse, ...]) -> Flow[None]:
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


def _critical(result: CallResult) -> AgentError:
    name = one_line(result.call.name, 40)
    message = f"{name} could not do its work: {one_line(result.notice.removeprefix(f'{name} is missing: '))}"
    what_now = f"Nothing was made up in its place. Try again when {name} works."
    if result.status == "unknown":
        message = f"{name} was not heard of in time: it may or may not have happened"
        what_now = "Look whether it is there before you ask again."
    return AgentError(message, reason="critical_tool", dependency=name, what_now=what_now)


def _void_words(reply: Reply) -> str:
    if reply.stop_reason == "max_tokens":
        return "the answer was cut off by MAX_TOKENS before it was complete; raise MAX_TOKENS or ask for less"
    return f"the model ended unclearly ({one_line(reply.stop_reason, 40)}), also when asked again"


# --- reports --------------------------------------------------------------------------------------------


def _answered(turn: Turn, reply: Reply, rules: Rules) -> TurnReport:
    said = sendable((*turn.paused, *reply.blocks))
    turn.messages = (*turn.messages, Message("assistant", said))
    missing = [result for result in turn.results if result.status in ("degraded", "unknown")]
    notices = [one_line(result.notice or result.output, 300) for result in missing]
    degraded = [result.call.name for result in missing]
    if reply.stop_reason == "max_tokens":
        notices.append("The answer was cut off at MAX_TOKENS; ask to go on.")
        degraded.append("answer")
    elif reply.stop_reason not in KNOWN_ENDS:
        notices.append(f"The model ended for an unknown reason ({one_line(reply.stop_reason, 40)}).")
    if turn.nobody:
        names = ", ".join(dict.fromkeys(one.call.name for one in turn.results if one.status == "denied"))
        notices.append(f"{names} was not run: nobody was there to approve it.")
    text = "".join(block.text for block in said if isinstance(block, Text))
    text = "\n\n".join([text.rstrip(), *(f"[{notice}]" for notice in dict.fromkeys(notices))])
    status = "needs_human" if turn.nobody else "degraded" if degraded else "ok"
    return _report(turn, status, text, rules, tuple(dict.fromkeys(degraded)))


def _failing(turn: Turn, error: AgentError, rules: Rules) -> Flow[TurnReport]:
    yield from _settling(turn)
    return replace(_report(turn, "failed", "", rules), error=error)


def _report(turn: Turn, status: str, text: str, rules: Rules, degraded: tuple[str, ...] = ()) -> TurnReport:
    asked = turn.model is not None
    return TurnReport(
        status, text, turn.model, tuple(turn.results), degraded,
        turn.usage if asked else Usage(), turn.cost_usd if asked else None,
        round((rules.now() - turn.started_s) * 1000),
    )  # fmt: skip


def _as_deadline(turn: Turn, error: AgentError, rules: Rules) -> AgentError:
    # Only of the outermost timer: a model that went silent ends with the same class, long before.
    if isinstance(error, AttemptTimedOut) and not turn.deadline.allows_start(rules.now()):
        return DeadlineExceeded(f"no answer within {rules.total_s:g} s", (error,))
    return error
