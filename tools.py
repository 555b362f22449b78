"""Tools the model can call: what one is, how its input is checked, and how a call always ends.  (floor 3)

    prepare   the whole batch, in the order asked: does the tool exist, does the input fit its
              schema, is it a duplicate, does it need a person's approval
    execute   the flows that each file in `toolbox/` composed, together, each under its time limit
    finish    one `CallResult` for every call, in the order asked, whatever happened

A tool is *critical* (it fails hard and honestly: the turn fails when it cannot work) or
optional (the turn goes on without it and says what is missing), and it may *write*.

A user adds a tool as a plain function with type hints and a docstring:

    @tool(critical=False)
    def dice(sides: int = 6) -> str:
        "Roll one die. sides: how many faces it has."
        return str(random.randint(1, sides))

What a schema may say is in `tool_schema.py`, what a plain function's answers and errors mean in
`tool_function.py`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from deadline import OUTER_GRACE_S, Deadline
from errors import AgentError, BadInput, OutcomeUnknown, translate
from events import EffectReconciled, Scope, ToolCallEnded, ToolCallStarted
from faults import FaultPlan
from flow import Flow, Gate, attempt, awaiting, blocking, done, emit, together, within
from guard import Guards, injecting
from messages import CallResult, CallStatus, ToolSpec, ToolUse
from oversight.approvals import Answer, ApprovalRequest, Approvals, digest_of
from safe_text import encodable, one_line, shorten
from tool_function import problem_of, schema_of, text_of
from tool_schema import check_schema, schema_problem

OUTPUT_CHARS_MAX = 16 * 1024
"""What one tool may tell the model: enough for a page of results, little enough for 40 calls a question."""

CALLS_PER_MESSAGE_MAX = 16
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what every version of the API accepts
LOOK_S_MAX = 1.0
"""How long the look after an unknown outcome may take; it reads one small file."""


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """What a tool's flow returns.

    Args:
        text: for the model to read.
        source: where it came from, e.g. a provider or "cache, 5 min old".
        degraded: the tool could not do its work and says so in `text`.
        untrusted: `text` carries words from outside (taint).
        wrote: something was written and is durable.
        notice: what the program itself tells the user when `degraded`; not left to the model.
    """

    text: str
    source: str | None = None
    degraded: bool = False
    untrusted: bool = False
    wrote: bool = False
    notice: str = ""


@dataclass(slots=True)
class CallContext:
    """What a running call may know: its id, its end, its gates, and whether untrusted text is about."""

    call_id: str
    deadline: Deadline
    tainted: bool = False
    tries: int = 0
    gates: list[Gate] = field(default_factory=list)

    def tried(self) -> None:
        """Count one attempt on a provider, for the report."""
        self.tries += 1

    def fresh_gate(self) -> Gate:
        """A gate for one writing attempt. Each attempt needs its own: a timed-out worker may still hold the last."""
        self.gates.append(Gate())
        return self.gates[-1]

    @property
    def may_have_acted(self) -> bool:
        """Whether a step past its point of no return is done or still under way: only an error says it is not."""
        return any(gate.claimed and (not gate.settled.is_set() or gate.error is None) for gate in self.gates)


Run = Callable[[CallContext, Mapping[str, Any]], Flow[ToolOutput]]
Look = Callable[[Mapping[str, Any]], Flow[bool]]
Keep = Callable[[CallResult], Flow[None]]


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool.

    `look(input)` tells whether its effect is there, after an unknown outcome; `said(input)` is what
    the tool says of an effect that is, for a call whose own words a crash took. `lies` are the kinds of
    `faults.LIES` that can be told of it.
    """

    name: str
    description: str
    input_schema: Mapping[str, Any]
    run: Run
    critical: bool = False
    writes: bool = False
    look: Look | None = None
    said: Callable[[Mapping[str, Any]], str] | None = None
    lies: Collection[str] = ()

    @property
    def spec(self) -> ToolSpec:
        """What the model is told."""
        return ToolSpec(self.name, self.description, self.input_schema)


class Toolbox:
    """The tools of one agent, by name. ValueError for names and schemas that the API would refuse."""

    def __init__(self, tools: Iterable[Tool]) -> None:
        self._tools: dict[str, Tool] = {}
        for one in tools:
            if not _NAME.fullmatch(one.name):
                raise ValueError(f"{one.name!r} is no name for a tool: up to 64 of A-Z a-z 0-9 _ -")
            check_schema(one.input_schema, one.name)
            if one.input_schema.get("type") != "object":
                raise ValueError(f"the schema of {one.name} must be of type object")
            if one.name in self._tools:
                raise ValueError(f"two tools are named {one.name!r}")
            self._tools[one.name] = one

    def get(self, name: str) -> Tool | None:
        """The tool of this exact name."""
        return self._tools.get(name)

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """What the model is told about all tools."""
        return tuple(one.spec for one in self)


# --- prepare ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Prepared:
    """One call of a batch, on its way. `result` is set as soon as it is known how the call ends.

    `approved` is the digest a person said yes to; `started` and `ended` say what the listeners were told.
    """

    call: ToolUse
    tool: Tool | None
    tainted: bool
    context: CallContext | None = None
    result: CallResult | None = None
    approved: str | None = None
    started: bool = False
    ended: bool = False

    @property
    def needs_approval(self) -> bool:
        """Whether a person must say yes first."""
        return self.result is None and self.tool is not None and self.tool.writes and self.tainted

    @property
    def digest(self) -> str:
        """The hash of what would run now."""
        return _digest(self.call)

    def unrun(self, status: CallStatus, why: str) -> None:
        """It will not run: why."""
        self.result = CallResult(self.call, status, why, attempts=0)


def prepare(
    calls: Sequence[ToolUse],
    toolbox: Toolbox,
    *,
    tainted: bool,
    calls_left: int = CALLS_PER_MESSAGE_MAX,
    earlier: Iterable[CallResult] = (),
) -> list[Prepared]:
    """Decide of each call of one message whether it can run; those that cannot have their result.

    Args:
        calls: in the order asked.
        toolbox: the tools there are.
        tainted: whether the model had seen untrusted text when it asked.
        calls_left: how many more may run in this question.
        earlier: how the calls before it in this question ended: no effect is repeated.
    """
    batch = [Prepared(call, toolbox.get(call.name), tainted) for call in calls]
    writes = {_digest(one.call): _repeated(one) for one in earlier if one.wrote or one.status == "unknown"}
    for position, one in enumerate(batch):
        if position >= CALLS_PER_MESSAGE_MAX:
            more = f"more than {CALLS_PER_MESSAGE_MAX} calls in one message"
            one.unrun("skipped", f"Not run: {more}. Ask again for what is missing.")
        elif position >= calls_left:
            one.unrun("skipped", "Not run: this question had its last call. Answer with what you have.")
        elif problem := _problem(one, toolbox):
            one.unrun("invalid", problem)
        elif one.tool is not None and one.tool.writes:
            if one.digest in writes:
                one.unrun("skipped", writes[one.digest])
            else:
                writes[one.digest] = "Not run twice: the same call stands before it in this message."
    return batch


def _repeated(one: CallResult) -> str:
    if one.status == "unknown":
        return "Not run again: whether the same call before it did its work is unknown."
    return "Not run twice: the same call was done already in this question."


def _digest(call: ToolUse) -> str:
    return digest_of(call.name, call.input)


def _problem(one: Prepared, toolbox: Toolbox) -> str | None:
    if one.tool is None:
        names = ", ".join(tool.name for tool in toolbox)
        return f"There is no tool named {one_line(one.call.name, 60)!r}. The tools are: {names}."
    if one.call.problem:
        return f"The input could not be read: {one.call.problem}. It began: {shorten(one.call.raw, 200)}"
    return schema_problem(one.call.input, one.tool.input_schema)


def approving(
    batch: Sequence[Prepared], approvals: Approvals, deadline: Deadline, now_s: Callable[[], float]
) -> Flow[bool]:
    """Get an answer for each call that needs one; refused calls get their result.

    Returns True when a call was refused only because nobody was there to ask.
    """
    nobody = False
    for one in batch:
        if not one.needs_approval:
            continue
        why = "text from outside is in this conversation and may have asked for it"
        request = ApprovalRequest(one.call.name, one.call.input, why, one.digest)
        answer = yield from approvals.asking(request, deadline.left_s(now_s()))
        if answer is Answer.YES:
            one.approved = request.digest
        else:
            nobody = nobody or answer is Answer.NOBODY
            said = "nobody was there to approve it" if answer is Answer.NOBODY else "it was not approved"
            one.unrun("denied", f"Not run: {said}. Nothing was written.")
    return nobody


# --- execute and finish ---------------------------------------------------------------------------------


def executing_all(
    batch: Sequence[Prepared],
    deadline: Deadline,
    tool_timeout_s: float,
    now_s: Callable[[], float],
    keep: Keep = lambda result: done(None),
) -> Flow[list[CallResult]]:
    """Run what can run, together; one result each, in the order asked. `keep` as in `executing`."""
    yield from together([executing(one, deadline, tool_timeout_s, now_s, keep) for one in batch])
    return [result_of(one) for one in batch]


def result_of(one: Prepared) -> CallResult:
    """How a call ended; for one that never came back, what its gate tells."""
    if one.result is None:
        one.result = _cancelled(one)
    return one.result


def _cancelled(one: Prepared) -> CallResult:
    gates, tries = (one.context.gates, one.context.tries) if one.context else ([], 0)
    acted = [gate for gate in gates if not gate.abandon()]
    if any(not gate.settled.is_set() or isinstance(gate.error, OutcomeUnknown) for gate in acted):
        text = "Stopped past its point of no return: it may or may not have happened."
        return CallResult(one.call, "unknown", text, tries)
    if any(gate.error is None for gate in acted):
        return CallResult(one.call, "ok", "Done just before the question was stopped.", tries, wrote=True)
    return CallResult(one.call, "skipped", "Not done: the question was stopped first.", tries)


def executing(
    one: Prepared,
    deadline: Deadline,
    tool_timeout_s: float,
    now_s: Callable[[], float],
    keep: Keep = lambda result: done(None),
) -> Flow[CallResult]:
    """Run one prepared call to its result; never raises. What ran goes to `keep` before anybody is told of it."""
    limit = deadline.earlier(now_s(), tool_timeout_s)
    return (yield from within(_scope(one), _reporting(one, limit, now_s, keep)))


def _scope(one: Prepared) -> Scope:
    return {"call": one.call.id, "tool": one.call.name}


def _reporting(one: Prepared, deadline: Deadline, now_s: Callable[[], float], keep: Keep) -> Flow[CallResult]:
    started_s = now_s()
    yield from _started(one)
    if one.approved is not None and one.approved != one.digest:
        one.unrun("denied", "Not run: its input is not what was approved. Nothing was written.")
    if one.result is None:
        one.context = CallContext(one.call.id, deadline, one.tainted)
        result = yield from _outcome(one, one.context, now_s)
        took_ms = round((now_s() - started_s) * 1000)
        one.result = replace(result, output=_bounded(result.output), attempts=one.context.tries, duration_ms=took_ms)
        yield from keep(one.result)
    return (yield from _ended(one, one.result))


def _started(one: Prepared) -> Flow[None]:
    one.started = True
    yield from emit(ToolCallStarted(one.call))


def _ended(one: Prepared, result: CallResult) -> Flow[CallResult]:
    one.ended = True
    yield from emit(ToolCallEnded(result))
    return result


def telling_the_rest(batch: Sequence[Prepared]) -> Flow[None]:
    """Tell of each call that was stopped before it could tell itself how it ended."""
    for one in batch:
        if not one.started:
            yield from within(_scope(one), _started(one))
        if not one.ended:
            yield from within(_scope(one), _ended(one, result_of(one)))


def _bounded(text: str) -> str:
    if len(text) > OUTPUT_CHARS_MAX:
        text = f"{text[:OUTPUT_CHARS_MAX]}\n[cut here: {len(text) - OUTPUT_CHARS_MAX} more characters]"
    return encodable(text)


def _outcome(one: Prepared, context: CallContext, now_s: Callable[[], float]) -> Flow[CallResult]:
    assert one.tool is not None  # prepare() gave every call without a tool its result
    limit_s = context.deadline.left_s(now_s()) + OUTER_GRACE_S
    try:
        output = yield from attempt(one.tool.run(context, one.call.input), limit_s)
    except BadInput as error:
        hint = f" {error.what_now}" if error.what_now else ""
        return CallResult(one.call, "invalid", f"{error.message}{hint}")
    except OutcomeUnknown as error:
        return (yield from _looking(one, error))
    except Exception as error:  # the boundary around foreign tool code: every call ends as a value
        if not context.may_have_acted:
            return failed_result(one, translate(error, one.call.name, 0.0))
        unknown = OutcomeUnknown(f"{one_line(str(error))}, when it was past its point of no return")
        return (yield from _looking(one, unknown))
    status: CallStatus = "degraded" if output.degraded else "ok"
    return CallResult(
        one.call, status, output.text, source=output.source, untrusted=output.untrusted,
        wrote=output.wrote, notice=output.notice,
    )  # fmt: skip


def failed_result(one: Prepared, error: AgentError) -> CallResult:
    """The result of a call whose tool could not work: fatal for a critical tool, a gap for an optional one."""
    critical = one.tool is not None and one.tool.critical
    text = f"{one.call.name} failed: {error.message}. Nothing may be made up in its place."
    notice = f"{one.call.name} is missing: {error.message}"
    return CallResult(one.call, "failed" if critical else "degraded", text, fatal=critical, notice=notice)


def _looking(one: Prepared, error: OutcomeUnknown) -> Flow[CallResult]:
    """After an unknown outcome: look whether the effect is there, and tell what the look showed."""
    if (yield from looked(one)):
        text = "It took too long to answer, but a look shows that it is there, whole."
        return CallResult(one.call, "ok", text, source="looked after a timeout", wrote=True)
    return unknown_result(one, error.message)


def looked(one: Prepared) -> Flow[bool | None]:
    """Look whether the effect of this call is there; None when that cannot be told. Never raises."""
    name = one.call.name
    if one.tool is None or one.tool.look is None:
        return None
    try:
        found = yield from attempt(one.tool.look(one.call.input), LOOK_S_MAX)
    except Exception as problem:  # foreign tool code again: a look that fails tells nothing
        yield from emit(EffectReconciled(name, f"could not look: {one_line(str(problem))}"))
        return None
    yield from emit(EffectReconciled(name, "it is there" if found else "it is not there (yet)"))
    return found


def unknown_result(one: Prepared, why: str) -> CallResult:
    """The result of a call that may or may not have done its work."""
    name = one.call.name
    text = f"{name}: the outcome is unknown. {why}. It may or may not happen; do not repeat it blindly."
    fatal = one.tool is not None and one.tool.critical
    return CallResult(one.call, "unknown", text, fatal=fatal, notice=f"{name}: the outcome is unknown")


# --- plain functions as tools ---------------------------------------------------------------------------


class UserTool:
    """A plain `def` or `async def` as a tool; still callable as what it was. Made by `@tool`."""

    def __init__(self, function: Callable[..., Any], *, critical: bool, writes: bool) -> None:
        self.function, self.critical, self.writes = function, critical, writes
        self.name = function.__name__
        self.description = inspect.getdoc(function) or ""
        if not self.description:
            raise ValueError(f"the tool {self.name} needs a docstring: it is what the model reads")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ValueError(f"the tool {self.name} is a generator; write a plain def or async def")
        self.input_schema = schema_of(function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def bind(self, guards: Guards, plan: FaultPlan) -> Tool:
        """The Tool with its guard (named like the tool) and its place for faults."""
        guard = guards(self.name)

        def run(context: CallContext, given: Mapping[str, Any]) -> Flow[ToolOutput]:
            def once(number: int) -> Flow[ToolOutput]:
                context.tried()
                return injecting(self._calling(given, context), plan, self.name)

            end, limit_s = context.deadline, context.deadline.left_s(guard.now())
            return (yield from guard.guarding(once, deadline=end, attempt_s=limit_s, safe_to_repeat=not self.writes))

        return Tool(self.name, self.description, self.input_schema, run, self.critical, self.writes)

    def _calling(self, given: Mapping[str, Any], context: CallContext) -> Flow[ToolOutput]:
        gate = context.fresh_gate()
        if inspect.iscoroutinefunction(self.function):
            output = yield from awaiting(lambda: self._awaited(given, gate))
        else:
            output = yield from blocking(lambda gate: self._called(given, gate), gate)
        return output

    def _called(self, given: Mapping[str, Any], gate: Gate) -> ToolOutput:
        self._begin(gate)
        try:
            return self._output(self.function(**given))
        except Exception as error:  # the boundary around the user's function
            raise problem_of(error, self.name) from error

    async def _awaited(self, given: Mapping[str, Any], gate: Gate) -> ToolOutput:
        self._begin(gate)
        try:
            output = self._output(await self.function(**given))
        except Exception as error:  # as above; a cancelled one leaves the gate unsettled: who knows what it did
            problem = problem_of(error, self.name)
            gate.settle(error=problem)
            raise problem from error
        gate.settle(output)
        return output

    def _begin(self, gate: Gate) -> None:
        # A writing tool that knows nothing of gates is past its point of no return once it starts.
        if self.writes and not gate.claim():
            raise AgentError(f"{self.name} was stopped before it began", reason="timeout")

    def _output(self, value: Any) -> ToolOutput:
        if isinstance(value, ToolOutput):
            # The trap: a tool that writes, returns its own ToolOutput and forgets to say so.
            return replace(value, wrote=value.wrote or (self.writes and not value.degraded))
        try:
            return ToolOutput(text_of(value), wrote=self.writes)
        except AgentError as error:
            if not self.writes:
                raise
            return ToolOutput(f"Done, but {error.message}.", wrote=True)  # what it did, it did


def tool(*, critical: bool = False, writes: bool = False) -> Callable[[Callable[..., Any]], UserTool]:
    """Make a tool of a plain function. Its type hints become the schema, its docstring the description.

    Args:
        critical: the turn fails when this tool cannot do its work.
        writes: it changes something; it may need an approval and is not repeated after a timeout.
    """
    return lambda function: UserTool(function, critical=critical, writes=writes)
