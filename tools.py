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

What a schema may say is in `tool_schema.py`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from faults import FaultPlan
from guard import Guards, injecting

from deadline import OUTER_GRACE_S, Deadline
from errors import AgentError, BadInput, OutcomeUnknown, translate
from events import EffectReconciled, ToolCallEnded, ToolCallStarted
from flow import Flow, Gate, attempt, awaiting, blocking, emit, together, within
from messages import CallResult, CallStatus, ToolSpec, ToolUse
from oversight.approvals import Answer, ApprovalRequest, Approvals, digest_of
from safe_text import encodable, one_line, shorten
from tool_schema import check_schema, schema_of, schema_problem

OUTPUT_CHARS_MAX = 16 * 1024
"""What one tool may tell the model: enough for a page of results, little enough for 40 calls a question."""

CALLS_PER_MESSAGE_MAX = 16
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


Run = Callable[[CallContext, Mapping[str, Any]], Flow[ToolOutput]]
Look = Callable[[Mapping[str, Any]], Flow[bool]]


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool. `look(input)` tells whether its effect is there, after an unknown outcome."""

    name: str
    description: str
    input_schema: Mapping[str, Any]
    run: Run
    critical: bool = False
    writes: bool = False
    look: Look | None = None

    @property
    def spec(self) -> ToolSpec:
        """What the model is told."""
        return ToolSpec(self.name, self.description, self.input_schema)


class Toolbox:
    """The tools of one agent, by name."""

    def __init__(self, tools: Iterable[Tool]) -> None:
        self._tools: dict[str, Tool] = {}
        for one in tools:
            check_schema(one.input_schema, one.name)
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
    """One call of a batch, on its way. `result` is set as soon as it is known how the call ends."""

    call: ToolUse
    tool: Tool | None
    tainted: bool
    context: CallContext | None = None
    result: CallResult | None = None

    @property
    def needs_approval(self) -> bool:
        """Whether a person must say yes first."""
        return self.result is None and self.tool is not None and self.tool.writes and self.tainted


def prepare(calls: Sequence[ToolUse], toolbox: Toolbox, *, tainted: bool) -> list[Prepared]:
    """Decide of each call of one message whether it can run; those that cannot have their result."""
    batch = [Prepared(call, toolbox.get(call.name), tainted) for call in calls]
    for position, one in enumerate(batch):
        if position >= CALLS_PER_MESSAGE_MAX:
            why = f"Not run: more than {CALLS_PER_MESSAGE_MAX} calls in one message. Ask again for what is missing."
            one.result = CallResult(one.call, "skipped", why, attempts=0)
        elif problem := _problem(one, toolbox):
            one.result = CallResult(one.call, "invalid", problem, attempts=0)
    return batch


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
        digest = digest_of(one.call.name, one.call.input)
        why = "text from outside is in this conversation and may have asked for it"
        request = ApprovalRequest(one.call.name, one.call.input, why, digest)
        answer = yield from approvals.asking(request, deadline.left_s(now_s()))
        if answer is not Answer.YES:
            nobody = nobody or answer is Answer.NOBODY
            who = "nobody was there to approve it" if answer is Answer.NOBODY else "the user did not approve it"
            one.result = CallResult(one.call, "denied", f"Not run: {who}. Nothing was written.", attempts=0)
    return nobody


# --- execute and finish ---------------------------------------------------------------------------------


def executing_all(
    batch: Sequence[Prepared], deadline: Deadline, tool_timeout_s: float, now_s: Callable[[], float]
) -> Flow[list[CallResult]]:
    """Run what can run, together; one result each, in the order asked."""
    yield from together([executing(one, deadline, tool_timeout_s, now_s) for one in batch])
    return [result_of(one) for one in batch]


def result_of(one: Prepared) -> CallResult:
    """How a call ended; for one that never came back, what its gate tells."""
    if one.result is None:
        one.result = _cancelled(one)
    return one.result


def _cancelled(one: Prepared) -> CallResult:
    gates = one.context.gates if one.context else []
    acted = [gate for gate in gates if not gate.abandon()]
    if any(not gate.settled.is_set() for gate in acted):
        text = "Stopped past its point of no return: it may or may not have happened."
        return CallResult(one.call, "unknown", text)
    if any(gate.error is None for gate in acted):
        return CallResult(one.call, "ok", "Done just before the question was stopped.", wrote=True)
    return CallResult(one.call, "skipped", "Not done: the question was stopped first.", attempts=len(gates))


def executing(one: Prepared, deadline: Deadline, tool_timeout_s: float, now_s: Callable[[], float]) -> Flow[CallResult]:
    """Run one prepared call to its result; never raises."""
    scope = {"call": one.call.id, "tool": one.call.name}
    return (yield from within(scope, _reporting(one, deadline.earlier(now_s(), tool_timeout_s), now_s)))


def _reporting(one: Prepared, deadline: Deadline, now_s: Callable[[], float]) -> Flow[CallResult]:
    started_s = now_s()
    yield from emit(ToolCallStarted(one.call))
    if one.result is None:
        one.context = CallContext(one.call.id, deadline, one.tainted)
        result = yield from _outcome(one, one.context, now_s)
        one.result = _timed(result, max(1, one.context.tries), now_s() - started_s)
    yield from emit(ToolCallEnded(one.result))
    return one.result


def _timed(result: CallResult, attempts: int, duration_s: float) -> CallResult:
    return CallResult(
        result.call, result.status, _bounded(result.output), attempts, round(duration_s * 1000),
        result.source, result.untrusted, result.fatal, result.wrote, result.notice,
    )  # fmt: skip


def _bounded(text: str) -> str:
    text = encodable(text)
    if len(text) <= OUTPUT_CHARS_MAX:
        return text
    return f"{text[:OUTPUT_CHARS_MAX]}\n[cut here: {len(text) - OUTPUT_CHARS_MAX} more characters]"


def _outcome(one: Prepared, context: CallContext, now_s: Callable[[], float]) -> Flow[CallResult]:
    assert one.tool is not None  # prepare() gave every call without a tool its result
    limit_s = context.deadline.left_s(now_s()) + OUTER_GRACE_S
    try:
        output = yield from attempt(one.tool.run(context, one.call.input), limit_s)
    except BadInput as error:
        hint = f" {error.what_now}" if error.what_now else ""
        return CallResult(one.call, "invalid", f"{error.message}{hint}")
    except OutcomeUnknown as error:
        return (yield from _looking(one, context, error, now_s))
    except Exception as error:  # the boundary around foreign tool code: every call ends as a value
        return failed_result(one, translate(error, one.call.name, 0.0))
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


def _looking(
    one: Prepared, context: CallContext, error: OutcomeUnknown, now_s: Callable[[], float]
) -> Flow[CallResult]:
    """After an unknown outcome: look whether the effect is there, and tell what the look showed."""
    name, found = one.call.name, False
    if one.tool is not None and one.tool.look is not None:
        try:
            found = yield from attempt(one.tool.look(one.call.input), LOOK_S_MAX)
            yield from emit(EffectReconciled(name, "it is there" if found else "it is not there (yet)"))
        except AgentError as problem:
            yield from emit(EffectReconciled(name, f"could not look: {problem.message}"))
    if found:
        text = "It took too long to answer, but a look shows that it is there, whole."
        return CallResult(one.call, "ok", text, source="looked after a timeout", wrote=True)
    text = f"{name}: the outcome is unknown. {error.message}. It may or may not happen; do not repeat it blindly."
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
            def once(number: int) -> Flow[Any]:
                context.tried()
                return injecting(self._calling(given, context), plan, self.name)

            value = yield from guard.guarding(
                once, deadline=context.deadline, attempt_s=context.deadline.left_s(guard.now()),
                safe_to_repeat=not self.writes,
            )  # fmt: skip
            return value if isinstance(value, ToolOutput) else ToolOutput(_as_text(value), wrote=self.writes)

        return Tool(self.name, self.description, self.input_schema, run, self.critical, self.writes)

    def _calling(self, given: Mapping[str, Any], context: CallContext) -> Flow[Any]:
        if inspect.iscoroutinefunction(self.function):
            return (yield from awaiting(lambda: self.function(**given)))

        def call(gate: Gate) -> Any:
            # A writing tool that knows nothing of gates is past its point of no return once it starts.
            if self.writes and not gate.claim():
                raise AgentError(f"{self.name} was stopped before it began", reason="timeout")
            return self.function(**given)

        return (yield from blocking(call, context.fresh_gate()))


def tool(*, critical: bool = False, writes: bool = False) -> Callable[[Callable[..., Any]], UserTool]:
    """Make a tool of a plain function. Its type hints become the schema, its docstring the description.

    Args:
        critical: the turn fails when this tool cannot do its work.
        writes: it changes something; it may need an approval and is not repeated after a timeout.
    """
    return lambda function: UserTool(function, critical=critical, writes=writes)


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise AgentError(f"it returned a {type(value).__name__}, which is not JSON", reason="crashed") from None
