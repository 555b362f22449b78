"""One run: an agent as `wiring.py` puts it together, in a world where everything follows from the plan.

A process that is killed leaves its disk and its database; the next one opens the session and resumes what was cut
off, as a person would. What holds after each question and at the end is judged in `checkers.py`.
"""

from __future__ import annotations

import hashlib
import io
import logging
import random
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, cast

from config import Settings, read_settings
from doors.virtual import VirtualBranch, VirtualDoor
from errors import AgentError, ConfigurationError
from events import Event, FaultInjected, Listener, Stamped, StoreFailed, ToolCallEnded, TurnEnded, TurnStarted
from faults import parse_fault
from flow import Blocking, Effect, Fetch, Flow, Pause
from models.chain import Converse
from oversight.approvals import Answer as Approval
from oversight.approvals import AskHuman
from platform_edges import Files
from stores.traces import NOTHING_COUNTED, Counts, TraceStore
from telemetry.log_lines import LineFormatter
from tests.simulation.files import Drive, Killed, SimulatedOs
from tests.simulation.model import SimulatedModels
from tests.simulation.plans import Asked, Plan
from tests.simulation.store import Database, SimulatedConnection
from tests.simulation.strikes import PATHS, Strike, Strikes
from tests.simulation.web import FOREVER_S, SimulatedWeb
from ui.screen import Screen
from wiring import Agent, Answer, World

NOTES, STATE = Path("/sim/notes"), Path("/sim/state")
EPOCH_S = 1_784_190_000.0
KEYS = ("sk-ant-simulated-0123456789", "gemini-simulated-0123456789", "tvly-simulated-0123456789")
TOTAL_S = 30.0
RECOVERY_S = 20.0

WATCHED = 8
"""In one run of so many log, screen and drawn trace are written out and searched: that takes as long as half a run."""

_PATHS = frozenset(PATHS)
_ASIDE = ("Checkpoint", "RecordIntents", "RecordOutcome")
_PACES = {"late": (3.0, 0.0), "slow": (0.0, 3.0), "hang": (FOREVER_S, 0.0)}


@cache
def settings() -> Settings:
    """As read from the environment."""
    return read_settings(
        {
            "ANTHROPIC_API_KEY": KEYS[0],
            "GEMINI_API_KEY": KEYS[1],
            "TAVILY_API_KEY": KEYS[2],
            "TOTAL_TIMEOUT": str(TOTAL_S),
            "LLM_TIMEOUT": "8",
            "BREAKER_RECOVERY_TIMEOUT": str(RECOVERY_S),
            "BREAKER_FAILURE_THRESHOLD": "3",
            "NOTES_DIR": str(NOTES),
            "STATE_DIR": str(STATE),
            "UNFLAPPABLE_USER": "sim",
        }
    )


class MemoryTraces(TraceStore):
    """Keeps the last state of each trace, and the sums of all counts."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.traces: dict[str, Mapping[str, Any]] = {}
        self.counts: Counter[tuple[str, str]] = Counter()

    def save(self, trace: Mapping[str, Any] | None, counts: Counts = NOTHING_COUNTED) -> None:
        if trace is not None:
            self.traces[str(trace["id"])] = trace
        for key, amount in counts.items():
            self.counts[key] += amount  # type: ignore[assignment]


class LogLines(logging.Handler):
    """Keeps every log line since it was last asked; one for all runs of this process."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.logger = logging.getLogger("unflappable")
        self._lines: list[str] = []
        self._formatter = LineFormatter(as_json=False)

    @classmethod
    @cache
    def shared(cls) -> LogLines:
        """The handler, in place."""
        handler = cls()
        handler.logger.addHandler(handler)
        handler.logger.propagate = False
        return handler

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self._formatter.format(record))

    def take(self) -> list[str]:
        """The lines since the last time."""
        taken, self._lines = self._lines, []
        return taken


class ShownScreen:
    """The screen of a one-shot, and what it shows."""

    def __init__(self) -> None:
        self._out, self._err = io.StringIO(), io.StringIO()
        self._screen = Screen.for_one_shot(self._out, self._err, {}, verbose=True)

    def __call__(self, stamped: Stamped) -> None:
        self._screen(stamped)

    def begin_turn(self) -> None:
        """A question is asked."""
        self._screen.begin_turn()

    def take(self) -> str:
        """What was shown since the last time."""
        text = self._out.getvalue() + self._err.getvalue()
        for stream in (self._out, self._err):
            stream.seek(0)
            stream.truncate()
        return text


class VirtualAgent(Agent):
    """The agent behind the virtual door; `ask` as of `BlockingAgent`."""

    def __init__(self, chosen: Settings, simulations: Callable[[VirtualAgent], dict[Any, Any]], **parts: Any) -> None:
        door: dict[str, Any] = parts.pop("door")
        super().__init__(chosen, **parts)
        self.door = VirtualDoor(simulations(self), self._flows(), self.listeners, **door)
        self.is_stoppable = False
        """Whether Ctrl-C would stop a question now."""

    def ask(self, question: str, task_id: str) -> Answer:
        """Answer one question."""
        return self._answer(self._begin(question, task_id))

    def resume(self) -> Answer:
        """Finish what was cut off."""
        return self._answer(self._begin(None, ""))

    def open_session(self, which: str) -> Any:
        """Change to another session; what was cut off in it."""
        return self.door.run(self.session.opening(which), self._scope())

    def wait(self, s: float) -> None:
        """Let time pass."""
        self.door.run(_waiting(s))

    def _answer(self, flow: Flow[Any]) -> Answer:
        scope, self.is_stoppable = self._scope(), True
        try:
            report = self.door.run(flow, scope)
        except KeyboardInterrupt:
            self.is_stoppable = False
            report = self.door.run(self.session.closing(), scope)
        finally:
            self.is_stoppable = False
            self.pulse.end_turn()
        return self._end(report)


def _waiting(s: float) -> Flow[None]:
    yield Pause(s)


@dataclass
class Told:
    """One question and what came of it. `answer` is None when the process ended and nothing could be resumed."""

    asked: Asked
    began_s: float
    answer: Answer | None = None
    ended_s: float = 0.0
    events: list[Stamped] = field(default_factory=list)
    before: Any = ()
    deaths: int = 0
    interrupted: bool = False
    resumed: bool = False


class Simulation:
    """One world and its run.

    Args:
        plan: what happens.
        tell: told every line of the run, for a person who looks at one.
    """

    def __init__(self, plan: Plan, tell: Callable[[str], None] | None = None) -> None:
        self.plan = plan
        self.strikes = Strikes()
        self.problems: list[str] = []
        self.told: list[Told] = []
        self.drive, self.database = Drive(), Database()
        self.lives = 0
        self.agent: VirtualAgent
        self.os: SimulatedOs
        self.models: SimulatedModels
        self.traces: MemoryTraces
        self.struck = self.interrupts = self.stillborn = 0
        self.heard: Counter[type[Event]] = Counter()
        self.is_watched = plan.seed % WATCHED == 0
        self.log, self.screen = LogLines.shared(), ShownScreen()
        self.log.logger.setLevel(logging.DEBUG if self.is_watched else logging.CRITICAL)
        self.threads_before = threading.active_count()
        self._hash, self._tell = hashlib.sha256(), tell
        self._now_s = 1_000.0
        self._rng = random.Random(f"world/{plan.seed}")
        self._tokens = 0
        self._question = 0

    @property
    def lost_syncs(self) -> bool:
        """Whether a sync failed and its process died later: only that process knew."""
        failed = any(where.startswith("os.fsync") and kind in ("EIO", "ENOSPC") for where, kind in self.strikes.hits)
        return failed and self.lives > 1

    @property
    def trace_hash(self) -> str:
        """Of everything that happened, in order."""
        return self._hash.hexdigest()

    def now(self) -> float:
        """The virtual time in seconds."""
        agent = getattr(self, "agent", None)
        return agent.door.now() if agent is not None and hasattr(agent, "door") else self._now_s

    def wall(self) -> float:
        """The wall clock."""
        return EPOCH_S + self.now()

    def note(self, line: str) -> None:
        """Take a line into the hash of the run."""
        self._hash.update(line.encode("utf-8", "surrogatepass"))
        if self._tell is not None:
            self._tell(f"{self.now():10.3f}  {line}")

    # --- a process ---------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start a process on what the last one left."""
        self.lives += 1
        self.struck = self.interrupts = self.stillborn = 0
        self.heard.clear()
        self._now_s = self.now() + 1.0
        self.__dict__.pop("agent", None)
        self.os = SimulatedOs(self.drive, self.strikes.at, self.dies, self.note, self.wall)
        connection = SimulatedConnection(self.database, self.strikes.at, self.dies)
        self._connection = connection
        self.traces = MemoryTraces(STATE)
        world = World(
            now=self.now,
            wall=self.wall,
            token=self._token,
            files=Files(system=self.os, lock=self.os.lock),
            traces=lambda folder: self.traces,
            sessions=lambda folder: cast(sqlite3.Connection, connection),
            kill=lambda: self.dies("kill"),
        )
        self.agent = VirtualAgent(
            replace(settings(), model_chain=self.plan.chain),
            self._simulations,
            seed=self.plan.seed,
            approve=self.plan.approve,
            listeners=[cast(Listener, self._hear), *([self.screen] if self.is_watched else [])],
            world=world,
            door={"start_s": self._now_s, "watch": self._watch, "pace": self._pace},
        )
        self.note(f"boot {self.lives}")

    def _simulations(self, agent: VirtualAgent) -> dict[type[Effect], Any]:
        scripts = {asked.number: asked.script for asked in self.plan.questions}
        self.models = SimulatedModels(
            agent.plan, self.strikes.at, scripts, self.problems.append, self._rng, self.now, self.wall, KEYS[0]
        )
        return {Converse: self.models, Fetch: SimulatedWeb(self.strikes.at, KEYS), AskHuman: self._human}

    def _token(self, size: int) -> str:
        self._tokens += 1
        return hashlib.sha256(f"{self.plan.seed}/{self._tokens}".encode()).hexdigest()[: 2 * size]

    def dies(self, kind: str) -> NoReturn:
        """The process ends here and now."""
        self.note(f"dies {kind}")
        self.os.dead = self._connection.dead = True
        if kind == "power":
            self.drive.cut_power(self._rng.random)
        raise Killed

    def _hear(self, stamped: Stamped) -> None:
        if self.os.dead:
            return
        self._count_hit(stamped.event)
        self._count_path(stamped.event)
        self.note(repr(stamped))
        self.heard[type(stamped.event)] += 1
        if self.told:
            self.told[-1].events.append(stamped)

    def _count_path(self, event: Event) -> None:
        path = ("event", type(event).__name__)
        if isinstance(event, TurnEnded):
            path = ("question", event.status)
        elif isinstance(event, ToolCallEnded):
            path = ("call", event.result.status)
        if path in _PATHS:
            self.strikes.hits[path] += 1

    def _count_hit(self, event: Event) -> None:
        """What the product's own injector struck with counts as hit, too."""
        if isinstance(event, FaultInjected) and self.told:
            argued = f"{event.kind}={event.argument}" if event.argument else event.kind
            for one in self.told[-1].asked.strikes:
                if one.kind == argued and one.is_injected and f"{event.target}.".startswith(f"{one.target}."):
                    self.strikes.hits[one.where, one.kind] += 1
                    break

    def _watch(self, effect: Effect, branch: VirtualBranch) -> None:
        if self.os.dead:
            raise Killed
        name = type(effect).__name__
        kind = self.strikes.at(f"effect.{name}")
        if not kind:
            return
        self.note(f"effect.{name} {kind}")
        if kind in ("kill", "power"):
            self.dies(kind)
        if not self.agent.is_stoppable:  # between questions Ctrl-C stops none
            self.strikes.hits[f"effect.{name}", kind] -= 1
            return
        if kind == "interrupt":
            self._interrupt(self._question)
        delay_s, question = self._rng.choice((0.001, 0.03, 0.3, 2.0)), self._question
        self.agent.door.call_at(self.now() + delay_s, lambda: self._interrupt(question))

    def _interrupt(self, question: int) -> None:
        if question == self._question and self.agent.is_stoppable:
            self.told[-1].interrupted = True
            self.interrupts += 1
            raise KeyboardInterrupt

    def _pace(self, branch: VirtualBranch) -> tuple[float, float]:
        names = [type(effect).__name__ for effect in branch.path]
        where = next((name for name in reversed(names) if name in _ASIDE), "RunTools")
        kind = self.strikes.at(f"aside.{where}")
        if kind:
            self.note(f"aside.{where} {kind}")
            return _PACES[kind]
        return (0.001, 0.001) if self._rng.random() < 0.2 else (0.0, 0.0)

    def _human(self, effect: AskHuman, branch: Any) -> Flow[Approval]:
        kind = self.strikes.at("human")
        self.note(f"human {kind}")
        yield Pause({"slow": 12.0, "never": effect.limit_s}.get(kind, 1.0))
        return {"no": Approval.NO, "nobody": Approval.NOBODY, "never": Approval.NOBODY}.get(kind, Approval.YES)

    # --- the run -----------------------------------------------------------------------------------------

    def run(self, check: Callable[[Simulation], None], check_end: Callable[[Simulation], None]) -> None:
        """Ask everything; `check` judges after each question, `check_end` at the end."""
        self.boot()
        for asked in self.plan.questions:
            self._ask(asked)
            check(self)
        check_end(self)
        self.database.close()

    def _ask(self, asked: Asked) -> None:
        if asked is self.plan.questions[-1]:
            self.strikes.replace(())
            self.agent.plan.clear()
            throttled = any(one.kind == "rate_limit=60" for told in self.told for one in told.asked.strikes)
            self.agent.wait(60.0 if throttled else RECOVERY_S)
        # What was cut off before is given up with this question, and enters the history then.
        before = self.agent.conversation.messages if self.agent.unfinished is None else None
        told = Told(asked, self.now(), before=before)
        self.told.append(told)
        self._question += 1
        self.strikes.replace(asked.strikes)
        self._inject(asked.strikes)
        self.screen.begin_turn()
        task_id = f"task-{asked.number}" if self.plan.returns == "task" else ""
        self._living(lambda: self.agent.ask(asked.text, task_id), told)
        self._question += 1
        told.ended_s = self.now()
        self.stillborn += told.interrupted and not of(told.events, TurnStarted)
        self.struck += sum(entry.struck for entry in self.agent.plan._entries)
        if task_id and told.answer is not None:
            self._repeat(told, told.answer, task_id)

    def _repeat(self, told: Told, answer: Answer, task_id: str) -> None:
        """Ask for a task's answer once more: it must be the same, and cost nothing."""
        is_kept = answer.report.status in ("ok", "degraded") and not of(told.events, StoreFailed)
        if not is_kept:
            return
        self.strikes.replace(())
        self.agent.plan.clear()
        events, requests = list(told.events), self.models.requests
        again = self.agent.ask(told.asked.text, task_id)
        told.events = events
        if again.report.text != answer.report.text or self.models.requests != requests:
            self.problems.append(f"D1: the task answered {answer.report.text!r}, then {again.report.text!r}")

    def _inject(self, strikes: tuple[Strike, ...]) -> None:
        specs = [one.spec for one in strikes if one.is_injected]
        self.agent.plan.replace([parse_fault(spec, self.agent.known_fault_targets) for spec in specs])

    def _living(self, ask: Callable[[], Answer], told: Told) -> None:
        """Ask; and when the process dies, start it anew and do as the plan says, as often as it takes."""
        while True:
            try:
                told.answer = ask()
                return
            except Killed:
                told.deaths += 1
                self.strikes.hits["after death", self.plan.returns] += 1
                self._rise(told)
            told.resumed, told.began_s, told.before = True, self.now(), self.agent.conversation.messages
            if self.plan.returns == "task":
                told.before = None  # it finds its session by itself
            elif self.agent.unfinished is None or self.plan.returns == "go_on":
                return
            else:
                ask = self.agent.resume

    def _rise(self, told: Told) -> None:
        """A new process opens the session, if it can."""
        session_id = self.agent.session_id
        while True:
            self.database.recover()
            try:
                self.boot()
                self._inject(())
                if self.plan.returns != "task":
                    self.agent.open_session(session_id)
                return
            except Killed:
                told.deaths += 1
            except ConfigurationError:  # it was never kept: the process died before the first commit
                return
            except AgentError:  # the disk is out of order: a person tries once more
                self.os.dead = self._connection.dead = True


def of(events: list[Stamped], kind: type[Event]) -> list[Any]:
    """The events of this kind."""
    return [stamped.event for stamped in events if isinstance(stamped.event, kind)]


__all__ = ["Blocking", "Simulation", "Told", "VirtualAgent", "of", "settings"]
