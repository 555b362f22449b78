"""Lets a planned fault strike one attempt of a tool: it fails, comes late, lies, or ends the process.  (floor 2)

    injecting(attempt, plan, target, lies)    directly inside the attempt's time limit, around all of it

The plan says which fault, this file what it looks like from outside the attempt. A lie is told where
it would be told in truth, by the attempt itself: what it looks like there only its tool knows, and hands
in as a `Lie`. Everything that checks answers stands outside of this, so it meets lies as it would real ones.

What this deliberately does not do: play faults of models, the disk and Redis. Those who perform these do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias, TypeVar

from errors import AgentError
from events import FaultInjected
from faults import Fault, FaultPlan
from flow import Emit, Flow, Pause

T = TypeVar("T")

Telling: TypeAlias = Callable[[], Flow[None]]
"""Yielded from by a lie in the moment it is told. One that never does so is given back to the plan."""

Lie: TypeAlias = Callable[[Flow[T], Telling], Flow[T]]
"""Runs an attempt, or not, and answers something that is not so."""

_FOREVER_S = 1_000_000.0  # eleven days; longer sleeps overflow some platforms' timers

_FAILS: dict[str, tuple[str, str]] = {
    "rate_limit": ("rate_limit", "rate limited (429)"),
    "overloaded": ("overloaded", "overloaded (529)"),
    "server_error": ("server_error", "server error (500)"),
    "auth": ("plan_limit", "the key was refused (401)"),
    "refused": ("connection", "connection refused"),
    "reset": ("connection", "connection reset"),
    "garbage": ("protocol", "rubbish instead of an answer"),
    "html": ("protocol", "a web page instead of an answer"),
}


def injecting(flow: Flow[T], plan: FaultPlan, target: str, lies: Mapping[str, Lie[T]] | None = None) -> Flow[T]:
    """Run one attempt of a tool, or the fault that the plan has for it.

    Args:
        flow: the whole attempt. When a fault strikes in its place it is closed and never runs.
        plan: asked once.
        target: `<tool>.<provider>`, or `<tool>` for a call that has no provider.
        lies: those this attempt can tell, by kind.
    """
    try:
        fault = plan.next(target, lies or ())
        if fault is None:
            return (yield from flow)
        if lies and fault.kind in lies:
            return (yield from _lying(flow, lies[fault.kind], plan, fault))
        if fault.kind == "crash" and fault.argument == "after":
            return (yield from _crashing_after(flow, plan, fault))
        yield _told(fault)
        if fault.kind == "slow":
            yield Pause(fault.seconds(0.0))
            return (yield from flow)
        if fault.kind == "crash":
            plan.crash(fault)
        if fault.kind == "hang":
            yield Pause(_FOREVER_S)
            raise AgentError("injected fault: it never answered", reason="timeout", dependency=target)
        raise _injected(fault)
    finally:
        flow.close()


def _told(fault: Fault) -> Emit:
    return Emit(FaultInjected(fault.target, fault.kind, fault.argument or ""))


def _lying(flow: Flow[T], lie: Lie[T], plan: FaultPlan, fault: Fault) -> Flow[T]:
    is_told = False

    def telling() -> Flow[None]:
        nonlocal is_told
        if not is_told:
            is_told = True
            yield _told(fault)

    try:
        return (yield from lie(flow, telling))
    finally:
        if not is_told:
            plan.give_back(fault)


def _crashing_after(flow: Flow[T], plan: FaultPlan, fault: Fault) -> Flow[T]:
    """The nasty moment: the work is done, and nobody has been told. An attempt that fails has none."""
    try:
        yield from flow
    except BaseException:  # also a stop: whatever ended it goes on, only the fault has not struck
        plan.give_back(fault)
        raise
    yield _told(fault)
    plan.crash(fault)


def _injected(fault: Fault) -> AgentError:
    # A tool without a provider that breaks is broken itself; with one, its provider is out of order.
    reason = "server_error" if "." in fault.target else "crashed"
    reason, said = _FAILS.get(fault.kind, (reason, "it does not work"))
    return AgentError(
        f"injected fault: {said}",
        reason=reason,
        dependency=fault.target,
        retry_after_s=fault.seconds(0.0) if fault.kind == "rate_limit" and fault.argument else None,
    )
