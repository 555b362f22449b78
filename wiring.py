"""Puts the agent together: the only file that knows every room below it.  (floor 5)

Settings go in, an agent that can be asked comes out: `AsyncAgent` or `BlockingAgent`. Both
hold the same parts and run the same flows; they differ in their door and in the performers
that touch the world. The program hands in the two things only it has: who is asked for
approvals, and who listens (the screen).

To add a tool: write a plain function with `@tool(...)` in a file under `toolbox/` and put it
into `USER_TOOLS`.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import models.claude
from aftermath import Aftermath, Errand
from alerter import Alerter
from config import Settings
from core.conversation import Conversation
from core.journal import Checkpoint, RecordIntents, RecordOutcome, recording, write_s
from core.report import Totals, TurnReport
from core.turn import AskModel, Rules
from deadline import Deadline
from dependencies import build_guards, build_tools, check_breakers, services, usable_links
from disk import Disk
from doors.aio import AsyncDoor
from doors.blocking import BlockingDoor, Stopped
from errors import AgentError
from events import AttemptStarted, FaultsChanged, Listener, Stamped
from faults import FaultPlan, parse_fault
from fetch import FetchAsync, FetchBlocking
from flow import Effect, Fetch, Flow, RunTools, Script, emit
from messages import CallResult, Reply
from models.chain import PRACTICE, Converse, asking, parse_chain
from models.claude import ClaudeAsync, ClaudeBlocking
from models.gemini import GeminiAsync, GeminiBlocking
from models.providers import ModelsAsync, ModelsBlocking
from oversight.alerts import TARGET as WEBHOOK
from oversight.approvals import Answer as Approval
from oversight.approvals import ApproveMode, AskHuman
from platform_edges import Files, end_at_once
from session import Session, Unfinished
from stores.redis_scripts import RedisScripts
from stores.session_rows import SessionInfo
from stores.sessions import Place, SessionStore
from stores.traces import TraceStore
from telemetry.counting import Meter
from telemetry.logs import LogListener
from telemetry.pulse import Pulse
from telemetry.traces import Tracer
from tools import Prepared, Tool, Toolbox, UserTool, executing_all

T = TypeVar("T")

USER_TOOLS: Sequence[UserTool] = ()
"""Your own tools: plain functions made with `@tool`."""


ALERT_S_MAX = 1.0
"""How long the end of the program waits for an alert that is on its way."""


def preload() -> None:
    """Import what is slow (the SDK: 2 s), to its end, before the first question is asked."""
    models.claude.preload()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a question came to, with what is needed to look it up again."""

    report: TurnReport
    trace_id: str
    session_id: str
    model_attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What an agent stands on. The defaults are the real things; a simulation brings its own.

    Args:
        now, wall: the monotonic clock and the wall clock, in seconds.
        token: draws so many bytes that nobody can guess, in hex.
        files: the system calls behind saving.
        traces: where traces are kept, by STATE_DIR.
        sessions: where sessions are kept, by STATE_DIR: that folder, or an open connection.
        kill: ends the process at once, for faults that do.
    """

    now: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    token: Callable[[int], str] = secrets.token_hex
    files: Files = field(default_factory=Files)
    traces: Callable[[Path], TraceStore] = TraceStore
    sessions: Callable[[Path], Place] = lambda folder: folder
    kill: Callable[[], object] = end_at_once


class Agent:
    """The parts that both agents share.

    Args:
        settings: as read by `config`.
        offline: use the practice model, whatever the chain says.
        fault_specs: faults that are on from the start.
        seed: repeats faults, jitter and practice answers; None draws one.
        approve: who approves doubtful writes.
        listeners: told every event.
        world: what it stands on.

    Raises ConfigurationError for a chain or a fault that makes no sense, or a chain without a usable link.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        offline: bool = False,
        fault_specs: Sequence[str] = (),
        seed: int | None = None,
        approve: ApproveMode = "ask",
        listeners: Sequence[Listener] = (),
        world: World | None = None,
    ) -> None:
        self.settings, self.approve, self.offline = settings, approve, offline
        self.world = world or World()
        parse_chain(settings.model_chain)  # one that makes no sense is an error also where it is not used
        self.links = (PRACTICE,) if offline else usable_links(settings)
        self.seed = seed if seed is not None else secrets.randbits(32)
        self.plan = FaultPlan((), self.seed, self.world.kill)
        self.redis = RedisScripts.from_url(settings.redis_url, self.plan) if settings.redis_url else None
        self.guards = build_guards(settings, self.seed, self.redis, self.world.now)
        self.toolbox = Toolbox(self._tools())
        self.known_fault_targets = self._fault_targets()
        check_breakers(settings, [*self.known_fault_targets, "model"])
        self.plan.replace([parse_fault(spec, self.known_fault_targets) for spec in fault_specs])
        self.traces = self.world.traces(settings.state_dir)
        self.totals = Totals()
        self.last_trace_id: str | None = None
        self._model_attempts = 0
        self._keeps = False
        self._meter = meter = Meter([one.name for one in self.toolbox])
        self.pulse = Pulse(settings.state_dir, practice=self.links[0] == PRACTICE, breakers=self.guards.snapshots)
        self.listeners: list[Listener] = [
            *listeners,
            meter,  # before the tracer: what an event counts leaves with the trace that tells of it
            Tracer(lambda trace: self.traces.save(trace.to_json(), meter.take())),
            LogListener(),
            self._count,
        ]
        self.rules = Rules(
            self.toolbox,
            self.world.now,
            total_s=settings.total_timeout_s,
            tool_s=settings.tool_timeout_s,
            max_tokens=settings.max_tokens,
        )
        self.sessions = SessionStore(self.world.sessions(settings.state_dir), self.world.wall)
        self.session = Session(self.sessions, self.rules, partial(self.world.token, 8))
        self.aftermath = Aftermath(self.sessions, self.guards, self._alerter(), self.world.now, self.world.wall)

    @property
    def session_id(self) -> str:
        """The id of the session this agent is in."""
        return self.session.id

    @property
    def conversation(self) -> Conversation:
        """What was said in it so far."""
        return self.session.conversation

    @property
    def unfinished(self) -> Unfinished | None:
        """The question in this session that a crash cut off; `resume` goes on with it."""
        return self.session.unfinished

    def new_session(self) -> None:
        """Begin another session; the one so far stays in the store."""
        self.session.renew()
        self.aftermath.later.forget()
        self.totals = Totals()

    def begin_heartbeat(self) -> None:
        """Let health checks see this agent from now on; without it they do from the first question on."""
        self.pulse.start()

    def leaving(self, *, keeps: bool) -> None:
        """The program is told to end: health checks hear it at once. For signal handlers too.

        Args:
            keeps: a question that is stopped from now on stays open, and the next start can finish it.
        """
        self.pulse.stopping()
        self._keeps = keeps

    # --- what both doors run

    def _flows(self) -> dict[type[Effect], Callable[[Any], Flow[Any]]]:
        return {
            AskModel: self._asking,
            RunTools: self._running,
            Checkpoint: self.session.checkpointing,
            RecordIntents: self.sessions.intending,
            RecordOutcome: self.sessions.recording,
        }

    def _asking(self, effect: AskModel) -> Flow[Reply]:
        return asking(
            effect.request,
            self.links,
            self.guards,
            deadline=effect.deadline,
            now=self.world.now,
            llm_timeout_s=self.settings.llm_timeout_s,
        )

    def _running(self, effect: RunTools) -> Flow[Any]:
        deadline, session_id, turn_id = Deadline(effect.deadline_at_s), self.session_id, self.session.turn.id

        def keep(result: CallResult) -> Flow[None]:
            return recording(session_id, turn_id, result, write_s(deadline, self.world.now()))

        calls: Sequence[Prepared] = effect.calls
        return executing_all(calls, deadline, self.settings.tool_timeout_s, self.world.now, keep)

    def _begin(self, question: str | None, task_id: str, errand: Errand | None = None) -> Flow[TurnReport]:
        """Take up this question, or with None the one that was cut off; the flow that answers it."""
        turn_id, cut = self.world.token(16), self.session.cut_off
        if question is None:
            self.session.take_up(self.approve)
            flow = self.session.resuming()
        else:
            self.session.begin(question, self.approve, turn_id, task_id)
            flow = self.session.asking()
        turn = self.session.turn
        given_up = cut if cut is not None and cut.is_poison and cut.id != turn.id else None
        self._model_attempts = 0
        self.pulse.begin_turn(turn.deadline.at_s)
        self.last_trace_id = turn_id
        return self.aftermath.around(flow, turn, self.session_id, errand, given_up)

    def _closing(self) -> Flow[TurnReport]:
        return self.session.leaving() if self._keeps else self.session.closing()

    def _following(self, report: TurnReport) -> Flow[None]:
        trace_id, turn = self.last_trace_id or "", self.session.turn
        return self.aftermath.following(turn, report, self.session_id, trace_id, self._model_attempts)

    def opening(self, which: str) -> Flow[Unfinished | None]:
        """What `open_session` runs, for a door that is not this agent's."""
        found = yield from self.session.opening(which)
        self.totals = Totals()
        with suppress(AgentError):  # what is parked there is then not seen to by itself
            yield from self.aftermath.later.loading(self.session_id)
        return found

    def _scope(self) -> dict[str, str | int]:
        return {"turn": self.last_trace_id or "", "session": self.session_id, "user": self.settings.user}

    def _end(self, report: TurnReport) -> Answer:
        self.totals.add(report)
        return Answer(report, self.last_trace_id or "", self.session_id, self._model_attempts)

    def _alerter(self) -> Alerter:
        settings, world = self.settings, self.world
        own = build_guards(settings, self.seed, None, world.now)  # each process has its own way to the webhook
        url, guard = settings.alert_webhook_url, own(WEBHOOK)
        return Alerter(url, guard, self.plan, LogListener(), now=world.now, wall=world.wall)

    def _close(self) -> None:
        self.sessions.close()
        self.pulse.stop()
        if counts := self._meter.take():  # of a question that has no end
            self.traces.save(None, counts)
        self.traces.close(1.0)
        self.aftermath.alerter.close(ALERT_S_MAX)

    def _count(self, stamped: Stamped) -> None:
        event = stamped.event
        if isinstance(event, AttemptStarted) and event.dependency.startswith("model."):
            self._model_attempts += 1

    def _announcing_faults(self) -> Flow[None]:
        if self.plan.specs:
            yield from emit(FaultsChanged(tuple(str(spec) for spec in self.plan.specs)))

    # --- the parts

    def _tools(self) -> list[Tool]:
        disk = Disk(self.plan, self.world.files)
        disk.sweep_temps(self.settings.notes_dir)  # of saves that a crash cut short
        built_in = build_tools(
            self.settings, self.guards, self.plan, disk,
            now=self.world.now, wall=self.world.wall, nonce=partial(self.world.token, 8),
        )  # fmt: skip
        return [*built_in, *(one.bind(self.guards, self.plan) for one in USER_TOOLS)]

    def _fault_targets(self) -> dict[str, Collection[str]]:
        """What faults can name, with the lies that can be told of it."""
        lies = {one.name: one.lies for one in self.toolbox}
        providers = ["get_weather.open_meteo", "web_search.tavily", "web_search.brave", "web_search.searxng"]
        providers.append("web_search.wikipedia")
        return {**lies, **{name: lies[name.partition(".")[0]] for name in providers}, WEBHOOK: ()}

    def _claude(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "base_url": settings.anthropic_base_url,
            "seed": self.seed,
            "belt_s": self._belt_s(),
        }

    def _gemini(self) -> dict[str, Any]:
        return {"base_url": self.settings.gemini_base_url, "belt_s": self._belt_s()}

    def _belt_s(self) -> float:
        return self.settings.total_timeout_s + 5.0


class AsyncAgent(Agent):
    """The agent on asyncio. One question at a time."""

    def __init__(self, settings: Settings, ask_human: Callable[..., Any] | None = None, **parts: Any) -> None:
        super().__init__(settings, **parts)
        self._models = ModelsAsync(
            ClaudeAsync(settings.anthropic_api_key, self.plan, **self._claude()),
            GeminiAsync(settings.gemini_api_key, self.plan, **self._gemini()),
        )
        performers: dict[type[Effect], Callable[..., Any]] = {
            Converse: self._models,
            Fetch: FetchAsync(services(settings)),
            AskHuman: ask_human or _nobody_async,
        }
        if self.redis is not None:
            performers[Script] = self.redis.perform_async
        self.door = AsyncDoor(performers, self._flows(), self.listeners)
        self._task: asyncio.Task[TurnReport] | None = None

    def begin_heartbeat(self) -> None:
        """The same, with the health of the running loop; call it on the loop."""
        self.pulse.start(asyncio.get_running_loop())

    async def ask(self, question: str, task_id: str = "", errand: Errand | None = None) -> Answer:
        """Answer one question. Failures are in the report; after `stop()` its status is "cancelled".

        Args:
            question: what is asked.
            task_id: given again with the same question, also by another process or after a crash, the
                stored answer is given. Raises ConfigurationError for one that is empty or too long.
            errand: a dead letter or a parked part that the answer settles. Raises AgentError when it is gone.
        """
        return await self._answer(self._begin(question, task_id, errand))

    async def resume(self) -> Answer:
        """Finish the question that a crash cut off (`unfinished`). Raises ConfigurationError when there is none."""
        return await self._answer(self._begin(None, ""))

    async def open_session(self, which: str) -> Unfinished | None:
        """Change to another session: its id, the beginning of its id, or "latest". What was cut off in it.

        Raises:
            ConfigurationError: there is no such session, or another process has it open.
            AgentError: it cannot be read.
        """
        return await self.door.run(self.opening(which), self._scope())

    async def perform(self, flow: Flow[T]) -> T:
        """Run a flow of `aftermath` between two questions."""
        return await self.door.run(flow, self._scope())

    async def list_sessions(self, limit: int = 20) -> list[SessionInfo]:
        """The sessions last used, newest first. Raises AgentError when they cannot be read."""
        return await self.door.run(self.session.listing(limit), self._scope())

    async def _answer(self, flow: Flow[TurnReport]) -> Answer:
        self.begin_heartbeat()
        scope = self._scope()
        self._task = asyncio.create_task(self.door.run(flow, scope))
        try:
            report = await self._task
        except asyncio.CancelledError:
            report = await asyncio.shield(self.door.run(self._closing(), scope))
            if _cancelled_from_outside():
                raise
        finally:
            self._task = None
            self.pulse.end_turn()
        await self.door.run(self._following(report), scope)
        return self._end(report)

    def stop(self) -> None:
        """Stop the running question; `ask` returns soon, with what was kept."""
        if self._task is not None:
            self._task.cancel()

    async def announce_faults(self) -> None:
        """Tell the listeners which faults are on, if any."""
        await self.door.run(self._announcing_faults())

    async def aclose(self) -> None:
        """Close connections and write what is left of the traces."""
        await self._models.aclose()
        if self.redis is not None:
            await self.redis.aclose()
        self._close()


class BlockingAgent(Agent):
    """The agent without asyncio: main thread and Unix only."""

    def __init__(self, settings: Settings, ask_human: Callable[..., Any] | None = None, **parts: Any) -> None:
        super().__init__(settings, **parts)
        self._models = ModelsBlocking(
            ClaudeBlocking(settings.anthropic_api_key, self.plan, **self._claude()),
            GeminiBlocking(settings.gemini_api_key, self.plan, **self._gemini()),
        )
        performers: dict[type[Effect], Callable[..., Any]] = {
            Converse: self._models,
            Fetch: FetchBlocking(services(settings)),
            AskHuman: ask_human or (lambda effect, branch: Approval.NOBODY),
        }
        if self.redis is not None:
            performers[Script] = self.redis.perform
        self.door = BlockingDoor(performers, self._flows(), self.listeners)

    def ask(self, question: str, task_id: str = "", errand: Errand | None = None) -> Answer:
        """Answer one question, as `AsyncAgent.ask`."""
        return self._answer(self._begin(question, task_id, errand))

    def resume(self) -> Answer:
        """Finish the question that a crash cut off, as `AsyncAgent.resume`."""
        return self._answer(self._begin(None, ""))

    def open_session(self, which: str) -> Unfinished | None:
        """Change to another session, as `AsyncAgent.open_session`."""
        return self.door.run(self.opening(which), self._scope())

    def perform(self, flow: Flow[T]) -> T:
        """Run a flow of `aftermath`, as `AsyncAgent.perform`."""
        return self.door.run(flow, self._scope())

    def list_sessions(self, limit: int = 20) -> list[SessionInfo]:
        """The sessions last used, newest first. Raises AgentError when they cannot be read."""
        return self.door.run(self.session.listing(limit), self._scope())

    def _answer(self, flow: Flow[TurnReport]) -> Answer:
        self.begin_heartbeat()
        scope = self._scope()
        try:
            report = self.door.run(flow, scope)
        except Stopped:
            report = self.door.run(self._closing(), scope)
        finally:
            self.pulse.end_turn()
        with suppress(Stopped):  # the question has its end already
            self.door.run(self._following(report), scope)
        return self._end(report)

    def stop(self, signum: int) -> None:
        """Stop the running question. For signal handlers."""
        self.door.stop(signum)

    def announce_faults(self) -> None:
        """Tell the listeners which faults are on."""
        self.door.run(self._announcing_faults())

    def close(self) -> None:
        """Close connections and write what is left of the traces."""
        self._models.close()
        if self.redis is not None:
            self.redis.close()
        self._close()


def _cancelled_from_outside() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _nobody_async(effect: AskHuman, branch: Any) -> Approval:
    return Approval.NOBODY
