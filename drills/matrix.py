"""The fault matrix: what is broken, what is asked meanwhile, and what must come of it.  (floor 6)

Most rows are one question under one fault, with an end that can be written down. The others
are scenes (`scenes.py` inside this process, `programs.py` with the real programs). Every kind of fault
appears for every part of the agent that it can strike; a test keeps that so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from drills import programs, scenes
from drills.scenes import WEATHER
from drills.stage import NOTE, SUM, SUM_IS, Play, Stage

BOTH = "What's the weather in Seattle, and what is 15 multiplied by 23?"
FIND, SEARCH = "Find my notes about milk", "Search the web for otters"


BOTH_AGENTS = ("asyncio", "blocking")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the matrix.

    Args:
        name: what breaks, unique.
        promise: what must hold, in words.
        play: does it.
        faults: on from the start.
        tries: how many failures in a row must be survived; with settings that give up before, it is skipped.
        agents: "asyncio" and "blocking" inside this process, or the file names of real programs.
        needs: what must be there, see `running.missing`.
    """

    name: str
    promise: str
    play: Play
    faults: tuple[str, ...] = ()
    tries: int = 0
    agents: tuple[str, ...] = BOTH_AGENTS
    needs: tuple[str, ...] = ()

    @property
    def target(self) -> str:
        """What breaks first, as faults name it; "model" where nothing is made to."""
        return self.faults[0].partition(":")[0] if self.faults else "model"


@dataclass(frozen=True, slots=True)
class Expected:
    """The end of one question.

    Args:
        status: as in the JSON report.
        says: words of the answer.
        error: words of the error, its type included.
        attempts: on models, None for any number.
        calls: status of each tool call in order, None for any.
        missing: what the report names as degraded.
        notes: files in the notes folder afterwards.
        within_s: seconds, where it is to end sooner than by its deadline.
    """

    status: str = "ok"
    says: tuple[str, ...] = ()
    error: tuple[str, ...] = ()
    attempts: int | None = None
    calls: tuple[str, ...] | None = None
    missing: tuple[str, ...] = ()
    notes: int | None = None
    within_s: float | None = field(default=None)


def asked(question: str, expected: Expected, stage: Stage) -> None:
    """Ask under the faults, compare with what is expected, then look that all is well again."""
    told = stage.ask(question)
    calls = tuple(call.status for call in told.calls)
    expect = stage.expect
    expect(told.status == expected.status, f"status {expected.status}: it is {told.in_words()}")
    for words in expected.says:
        expect(words in told.text, f"the answer says {words!r}: it says {told.text!r}")
    for words in expected.error:
        expect(words in told.error, f"the error says {words!r}: it says {told.error!r}")
    expect(expected.attempts in (None, told.attempts), f"{expected.attempts} attempts on models: {told.attempts}")
    expect(expected.calls in (None, calls), f"tool calls {expected.calls}: {calls}")
    expect(told.degraded == expected.missing, f"named as missing {expected.missing}: {told.degraded}")
    if expected.notes is not None:
        expect(len(stage.notes) == expected.notes, f"{expected.notes} files in the notes folder: {len(stage.notes)}")
    if expected.within_s is not None:
        expect(told.took_s <= expected.within_s, f"ends within {expected.within_s:g} s: {told.took_s:.2f} s")
    expect(not stage.faults or stage.strikes() > 0, "the fault strikes: it never did")
    stage.heal()


def _row(
    faults: str, promise: str, question: str, expected: Expected, *, tries: int = 0, needs: str = "", beside: str = ""
) -> Row:
    """A row of one question under the faults that name it."""
    name = f"{faults} {beside}".strip()
    return Row(
        name, promise, partial(asked, question, expected), tuple(faults.split()), tries, needs=tuple(needs.split())
    )


def _scene(name: str, play: Play, faults: str = "", *agents: str, tries: int = 0, needs: str = "") -> Row:
    """A row that is told by its function."""
    promise = (play.__doc__ or "").strip().rstrip(".")
    if promise[1:2].islower() and not promise.startswith("Ctrl"):  # in a table it is no sentence
        promise = promise[0].lower() + promise[1:]
    return Row(name, promise, play, tuple(faults.split()), tries, agents or BOTH_AGENTS, tuple(needs.split()))


# --- models ----------------------------------------------------------------------------------------------

_RIGHT = Expected(says=(SUM_IS,), attempts=3, calls=("ok",))
_PASSING = (
    "error", "overloaded", "server_error", "rate_limit", "rate_limit=0.2", "refused", "reset", "garbage", "html",
    "hang", "cut=start", "cut=text", "cut=tool", "cut=end", "stall=text", "stall=tool",
)  # fmt: skip
_DEAD = ("overloaded", "server_error", "refused", "hang", "stall=text", "cut=text", "garbage", "rate_limit")


def _models() -> list[Row]:
    dead = Expected("failed", calls=None)
    return [
        *(_row(f"model:{kind}*1", "tried again: the right answer", SUM, _RIGHT, tries=1) for kind in _PASSING),
        _row("model:overloaded*2", "twice: still the right answer", SUM, _of(_RIGHT, 4), tries=2),
        _row("model:slow=0.1", "slow is not broken", SUM, _of(_RIGHT, 2)),
        *(_row(f"model:{kind}", "for ever: an honest no, by the deadline", SUM, dead) for kind in _DEAD),
        _row("model:auth", "one request, one line; nobody else is asked", SUM, _no("AuthenticationError", 1)),
        _row("model:bad_request", "one request, one line; nobody else is asked", SUM, _no("BadRequest", 1)),
        _row("model:refusal*1", "a refusal is said, no tool of it runs", SUM, _no("Refused", 1)),
        _row("model:max_tokens*1", "text that was cut: said to be so", SUM, Expected("degraded", missing=("answer",))),
        _row("model:bad_tool*1", "a tool nobody has: told, and corrected", SUM, _corrected()),
        _row("model:bad_args*1", "input that does not fit: told, and corrected", SUM, _corrected()),
        _row("model:bad_tool", "for ever: stopped, bounded", SUM, _no("LimitReached")),
        _row("model:bad_args", "for ever: stopped, bounded", SUM, _no("LimitReached")),
        _row("model:loop", "the same call for ever: stopped, bounded", SUM, _no("")),
        _row("model:cut=text*1 model:hang*1", "two different failures: still right", SUM, _of(_RIGHT, 4), tries=2),
    ]


def _of(expected: Expected, attempts: int) -> Expected:
    return Expected(expected.status, expected.says, expected.error, attempts, expected.calls)


def _no(error: str, attempts: int | None = None) -> Expected:
    return Expected("failed", error=(error,), attempts=attempts)


def _corrected() -> Expected:
    return Expected(says=(SUM_IS,), attempts=3, calls=("invalid", "ok"))


# --- tools -----------------------------------------------------------------------------------------------

_TOOL_PASSING = ("error", "rate_limit", "overloaded", "server_error", "refused", "reset", "garbage", "html", "hang")
_TOOL_DEAD = (*_TOOL_PASSING, "auth")


def _tools() -> list[Row]:
    without = Expected("degraded", ("get_weather is missing",), calls=("degraded",), missing=("get_weather",))
    beside = Expected("degraded", (SUM_IS, "get_weather is missing"), missing=("get_weather",))
    unable = Expected("failed", error=("calculator could not do its work",), calls=("failed",))
    unsaved = Expected("failed", error=("save_note could not do its work",), calls=("failed",), notes=0)
    return [
        *(
            _row(
                f"get_weather:{kind}*1", "tried again: the weather is told", WEATHER, Expected(says=("17.3",)), tries=1
            )
            for kind in _TOOL_PASSING
        ),
        *(_row(f"get_weather:{kind}", "missing, said so, nothing invented", WEATHER, without) for kind in _TOOL_DEAD),
        _row("get_weather:slow=0.1", "slow is not broken", WEATHER, Expected(says=("17.3",))),
        _row("get_weather:refused", "the other half of the question is answered", BOTH, beside, beside="beside a sum"),
        _row("web_search:error", "missing, said so", SEARCH, Expected("degraded", missing=("web_search",))),
        _row("calculator:error", "a tool one cannot do without: fails, and says which", SUM, unable),
        _row("calculator:hang", "ends at TOOL_TIMEOUT, and says which", SUM, unable),
        _row("save_note:error", "fails, says which; no file", NOTE, unsaved),
        _row("save_note:hang", "fails, says which; no file then or later", NOTE, unsaved),
    ]


# --- files -----------------------------------------------------------------------------------------------


def _disk() -> list[Row]:
    unsaved = Expected("failed", error=("save_note could not do its work",), calls=("failed",), notes=0)
    saved = Expected(calls=("ok",), notes=1)
    return [
        _row("disk:full", "fails, says why; nothing half-written", NOTE, unsaved),
        _row("disk:error", "fails, says why; nothing half-written", NOTE, unsaved),
        _row("disk:hang", "ends in time; nothing is written then or later", NOTE, unsaved),
        _scene("disk:full*1, then asked again", scenes.full_once_then_asked_again, "disk:full*1"),
        _row(
            "disk:error",
            "notes are missing, said so",
            FIND,
            Expected("degraded", missing=("find_notes",)),
            beside="in a search",
        ),
        _row("disk:slow=0.1", "slow is not broken: saved once", NOTE, saved),
    ]


# --- tools that lie --------------------------------------------------------------------------------------


def _lies() -> list[Row]:
    def missing(name: str) -> Expected:
        return Expected("degraded", (f"{name} is missing",), missing=(name,))

    doubtful = Expected("failed", error=("calculator could not do its work", "different results"), calls=("failed",))
    unsaved = Expected("failed", error=("save_note could not do its work", "finds nothing"), calls=("failed",), notes=0)
    old = Expected("degraded", ("old values",), missing=("get_weather",))
    weather, saved = Expected(says=("17.3",)), Expected(calls=("ok",), notes=1)
    return [
        _row("calculator:wrong", "worked out twice: a wrong number is no answer", SUM, doubtful),
        _row("calculator:wrong*1", "worked out again: the right answer", SUM, Expected(says=(SUM_IS,)), tries=1),
        _row("get_weather:wrong", "a value that cannot be is not told", WEATHER, missing("get_weather")),
        _row("get_weather:wrong*1", "asked again: the weather is told", WEATHER, weather, tries=1),
        _row("get_weather:swapped", "the weather of another place is not told", WEATHER, missing("get_weather")),
        _row("get_weather:stale", "old values are told with their age", WEATHER, old),
        _row("web_search:swapped", "results about something else are labelled", SEARCH, Expected(says=("check that",))),
        _row("save_note:noop", "read back: a save that did nothing is no save", NOTE, unsaved),
        _row("save_note:noop*1", "read back, then saved in truth, once", NOTE, saved, tries=1),
        _scene("find_notes:wrong", scenes.changed_notes, "find_notes:wrong"),
        _scene("find_notes:swapped", scenes.other_notes, "find_notes:swapped"),
    ]


# --- Redis -----------------------------------------------------------------------------------------------


def _redis() -> list[Row]:
    kinds = ("error", "refused", "reset", "auth", "garbage", "hang", "slow=0.1")
    return [_scene(f"redis:{kind}", scenes.without_redis, f"redis:{kind}", needs="redis") for kind in kinds]


# --- scenes ----------------------------------------------------------------------------------------------


def _scenes() -> list[Row]:
    dying = "model:server_error+1"
    return [
        _scene("the same note twice", scenes.the_same_note_twice),
        _scene("a note whose answer is cut", scenes.the_same_note_twice, "model:cut=text*1", tries=1),
        _scene("a note, then no model", scenes.saved_before_the_model_dies, dying),
        _scene("weather that was known before", scenes.the_last_good_weather, "get_weather:refused+1"),
        _scene("a model that is dead for long", scenes.a_breaker_opens, "model:server_error"),
        _scene("a tainted write, nobody there", scenes.a_tainted_write_with_nobody_there),
        _scene("a tainted write, refused", scenes.a_tainted_write_refused),
        _scene("a tainted write, granted", scenes.a_tainted_write_granted),
    ]


def _programs() -> list[Row]:
    asyncio_program, both = ("agent_async.py",), ("agent_async.py", "agent.py")
    return [
        _scene("program: model:overloaded*1", programs.answered, "model:overloaded*1", "agent.py", tries=1),
        _scene("program: calculator:error", programs.failed, "calculator:error", *asyncio_program),
        _scene("program: a fault that is misspelt", programs.misspelt, "", *asyncio_program),
        _scene("program: a tainted write", programs.unapproved, "", *asyncio_program),
        _scene("program: Ctrl-C", programs.interrupted, "", *asyncio_program, needs="signals"),
        _scene("program: Ctrl-C after a save", programs.interrupted_after_a_save, "", *both, needs="signals"),
        _scene("program: SIGTERM", programs.terminated, "", *asyncio_program, needs="signals"),
        _scene("program: kill -9 in a save", programs.killed_in_a_save, "", *asyncio_program, needs="signals"),
        _scene("program: kill -9, then resumed", scenes.resumed_after_a_kill, "", "asyncio", needs="signals"),
        _crash("model:crash", "asyncio"),
        _crash("save_note:crash=after", "blocking"),
        _crash("disk:crash", "asyncio"),
    ]


def _crash(fault: str, agent: str) -> Row:
    promise = (scenes.resumed_after_a_crash.__doc__ or "").strip()
    play = partial(scenes.resumed_after_a_crash, fault)
    return Row(f"program: {fault}, then resumed", promise, play, agents=(agent,), needs=("signals",))


def rows() -> Sequence[Row]:
    """All rows, in the order they are played."""
    return [*_models(), *_tools(), *_lies(), *_disk(), *_redis(), *_scenes(), *_programs()]
