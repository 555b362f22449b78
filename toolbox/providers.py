"""Asks one provider of a tool after the other, then the last good answer, and says which it was.  (floor 4)

    guarded(first) -> guarded(second) -> ... -> the last good answer, labelled -> the honest no

Shared by the tools that look something up. Each provider has its own guard and its own name
for faults, `<tool>.<provider>`. What this does not do: put the answer into words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from errors import Advice, AgentError, OutcomeUnknown
from fallback import Choice, falling_back
from fault_injection import Lie
from faults import FaultPlan
from flow import Flow
from guard import Guards, injecting
from toolbox.cache import LastGood, age_in_words
from tools import CallContext, ToolOutput

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Provider(Generic[T]):
    """One service that can answer. `asking(question)` makes the flow of one attempt; `lies`: those it can tell."""

    name: str
    asking: Callable[[str], Flow[T]]
    lies: Mapping[str, Lie[T]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answered(Generic[T]):
    """An answer and where it came from. `age_s` is None for a live one; else `why` says what failed."""

    value: T
    provider: str
    age_s: float | None = None
    why: str = ""

    @property
    def source(self) -> str:
        """For the report: the provider, or the cache and the age."""
        return self.provider if self.age_s is None else f"cache, {age_in_words(self.age_s)} old"


@dataclass(frozen=True, slots=True)
class Providers(Generic[T]):
    """The providers of one tool, in the order they are asked.

    Args:
        tool: its name.
        each: at least one provider.
        guards, plan: every attempt passes the provider's guard and its faults.
        cache: the last good answers.
        is_worth_keeping: whether an answer may stand in later; "found nothing" may not.
        now: the monotonic clock in seconds.
    """

    tool: str
    each: Sequence[Provider[T]]
    guards: Guards
    plan: FaultPlan
    cache: LastGood[T]
    is_worth_keeping: Callable[[T], bool]
    now: Callable[[], float]

    def asking(self, question: str, context: CallContext) -> Flow[Answered[T]]:
        """The first answer. AgentError when there is none, not even an old one: it says what each said."""
        failures: list[str] = []
        choices = [self._choice(provider, question, context, failures) for provider in self.each]
        if self.cache.get(question, self.now()) is not None:
            choices.append(Choice("cache", "cache", lambda _: self._remembering(question, failures), last_resort=True))
        try:
            return (yield from falling_back(choices, deadline=context.deadline, now=self.now))
        except AgentError as error:
            raise AgentError("; ".join(failures), reason=error.reason, kind=error.kind) from error

    def _choice(
        self, provider: Provider[T], question: str, context: CallContext, failures: list[str]
    ) -> Choice[Answered[T]]:
        guard = self.guards(f"{self.tool}.{provider.name}")

        def once(number: int) -> Flow[T]:
            context.tried()
            return injecting(provider.asking(question), self.plan, guard.name, provider.lies)

        def flow(has_next: bool) -> Flow[Answered[T]]:
            limit_s = context.deadline.left_s(self.now())
            try:
                value = yield from guard.guarding(once, deadline=context.deadline, attempt_s=limit_s, has_next=has_next)
            except AgentError as error:
                failures.append(f"{provider.name}: {error.message}")
                raise _hopping(error) from error
            if self.is_worth_keeping(value):
                self.cache.put(question, value, self.now())
            return Answered(value, provider.name)

        return Choice(provider.name, provider.name, flow, guard.is_ready)

    def _remembering(self, question: str, failures: list[str]) -> Flow[Answered[T]]:
        found = self.cache.get(question, self.now())
        if found is None:
            raise AgentError("the earlier answer is too old by now", reason="not_found")
        value, age_s = found
        return Answered(value, "cache", age_s, "; ".join(failures))
        yield  # never reached: makes this function a generator


def _hopping(error: AgentError) -> AgentError:
    """A tool provider that must be mended (bad key, bad certificate) is a reason to ask the next one."""
    if error.verdict.advice is not Advice.STOP or isinstance(error, OutcomeUnknown):
        return error
    return AgentError(error.message, reason="plan_limit", what_now=error.what_now, dependency=error.dependency)


def unavailable(tool: str, error: AgentError) -> ToolOutput:
    """The honest no: what the model reads, and what the program itself tells the user."""
    return ToolOutput(
        f"not available right now ({error.message})", degraded=True, notice=f"{tool} is missing: {error.message}"
    )


def old_answer_notice(tool: str, answered: Answered[T]) -> str:
    """What the program tells the user when the cache answered; "" for a live answer."""
    if answered.age_s is None:
        return ""
    return f"{tool} answered from the cache, {age_in_words(answered.age_s)} old, because of {answered.why}"
