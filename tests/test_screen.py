"""What a person sees while things happen, on a terminal, in a pipe and when the other side is gone."""

from __future__ import annotations

import errno
import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pyte
import pytest

from events import (
    ApprovalAnswered,
    ApprovalAsked,
    AttemptAbandoned,
    AttemptFailed,
    AttemptStarted,
    AttemptSucceeded,
    CallRejected,
    CircuitClosed,
    CircuitOpened,
    Event,
    FaultInjected,
    FaultsChanged,
    FellBack,
    LimiterWaited,
    ModelAnswered,
    NoticeGiven,
    RetryRefused,
    RetryScheduled,
    RoundStarted,
    Stamped,
    TextStreamed,
    ThinkingStreamed,
    ToolCallEnded,
    ToolCallStarted,
    TurnCancelled,
    TurnEnded,
    TurnStarted,
)
from messages import CallResult, ToolUse, Usage
from ui.markdown_stream import VOID_MARK
from ui.screen import Screen
from ui.sink import OutputClosed, Sink
from ui.standing import Standing
from ui.theme import Theme

SONNET = "model.anthropic.claude-sonnet-5-5"
XTERM = {"TERM": "xterm-256color"}
WALL_S = 1_800_000_000.0


class Tty(io.StringIO):
    """A terminal with a screen behind it."""

    encoding = "utf-8"

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        super().__init__()
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=0.1)
        self._stream = pyte.Stream(self.screen)

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._stream.feed(text.replace("\n", "\r\n"))
        return super().write(text)

    def lines(self) -> list[str]:
        """Everything on the screen and above it, without empty lines at the end."""
        rows = [*self.screen.history.top, *(self.screen.buffer[y] for y in range(self.screen.lines))]
        lines = ["".join(row[x].data for x in range(self.screen.columns)).rstrip() for row in rows]
        while lines and not lines[-1]:
            lines.pop()
        return lines


class Sized(Sink):
    """A sink of a stream that has no descriptor to ask for its size."""

    def size(self) -> os.terminal_size:
        assert isinstance(self._stream, Tty)
        return os.terminal_size((self._stream.screen.columns, self._stream.screen.lines))


def chat(tty: Tty, environ: Mapping[str, str] = XTERM, *, verbose: bool = False) -> Screen:
    sink = Sized(tty, environ)
    screen = Screen(sink, sink, streams=True, verbose=verbose)
    screen.begin_turn()
    return screen


class Teller:
    """Tells a screen events, stamped one second apart."""

    def __init__(self, screen: Screen) -> None:
        self.screen, self.sequence = screen, 0

    def __call__(self, *events: Event) -> None:
        for event in events:
            self.sequence += 1
            scope = {"turn": "tr-7"}
            self.screen(Stamped(event, scope, self.sequence, float(self.sequence), WALL_S + self.sequence))


def ended(text: str, status: str = "ok", **more: object) -> TurnEnded:
    return TurnEnded(status, text, "anthropic:claude-sonnet-5-5", Usage(10, 5, 0, 0), 0.0012, **more)  # type: ignore[arg-type]


def answered(stop_reason: str = "end_turn") -> ModelAnswered:
    return ModelAnswered("anthropic:claude-sonnet-5-5", "claude-sonnet-5-5", stop_reason, Usage(10, 5, 0, 0), 0.0012)


CALL = ToolUse("t1", "calculator", {"expression": "15 * 23"})


def call_ended(status: str = "ok", output: str = "345", **more: object) -> ToolCallEnded:
    return ToolCallEnded(CallResult(CALL, status, output, duration_ms=12, **more))  # type: ignore[arg-type]


# --- the answer -----------------------------------------------------------------------------------------


def test_an_answer_is_shown_once_as_it_streams_and_not_again_at_the_end() -> None:
    tty = Tty()
    screen = chat(tty)
    Teller(screen)(
        AttemptStarted(SONNET, 1, 4),
        TextStreamed("It is "),
        TextStreamed("**345**."),
        answered(),
        ended("It is **345**."),
    )
    screen.end_turn()
    assert tty.lines() == ["It is 345."]


def test_a_secret_is_shown_nowhere_however_the_stream_splits_it() -> None:
    tty = Tty()
    text = "Your key: sk-ant-api03-AAAABBBBCCCCDDDD, and sk"
    Teller(chat(tty))(*(TextStreamed(character) for character in text), answered(), ended(text))
    assert tty.lines() == ["Your key: [secret], and sk"]
    assert "AAAA" not in tty.getvalue()


def test_a_notice_the_program_appended_to_the_text_is_printed_after_it() -> None:
    tty = Tty()
    screen = chat(tty)
    Teller(screen)(
        TextStreamed("Rain.\n"), answered(), ended("Rain.\n\n[From the cache.]", "degraded", degraded=("get_weather",))
    )
    screen.end_turn()
    assert tty.lines() == ["Rain.", "", "[From the cache.]", "! degraded: get_weather"]


def test_text_that_never_streamed_is_printed_whole() -> None:
    tty = Tty()
    screen = chat(tty)
    Teller(screen)(ended("Stored *answer*."))
    screen.end_turn()
    assert tty.lines() == ["Stored answer."]


def test_text_of_several_rounds_counts_as_shown() -> None:
    tty = Tty()
    screen = chat(tty)
    tell = Teller(screen)
    tell(TextStreamed("Let me see."), answered("tool_use"), ToolCallStarted(CALL), call_ended(), RoundStarted(2))
    tell(
        TextStreamed("Paused "),
        answered("pause_turn"),
        RoundStarted(3),
        TextStreamed("and done."),
        answered(),
        ended("Paused and done."),
    )
    screen.end_turn()
    assert tty.lines()[-2:] == ["Paused", "and done."]
    assert tty.lines()[:2] == ["Let me see.", "✓ calculator(15 * 23) → 345 (12 ms)"]
    assert VOID_MARK not in tty.lines()


def test_void_text_is_erased_while_it_can_be_and_the_next_attempt_starts_clean() -> None:
    tty = Tty()
    screen = chat(tty)
    tell = Teller(screen)
    tell(
        AttemptStarted(SONNET, 1, 4),
        TextStreamed("It was"),
        AttemptFailed(SONNET, 1, "connection", "transient", "failure", "cut"),
    )
    tell(AttemptAbandoned(SONNET, 1, 6), RetryScheduled(SONNET, 2, 0.84, "connection", "connection failed: cut"))
    assert tty.lines()[-1].startswith("waiting 0.8 s: connection failed: cut")
    tell(AttemptStarted(SONNET, 2, 4), TextStreamed("It is 345."), answered(), ended("It is 345."))
    screen.end_turn()
    broken_between_words = [
        "↻ anthropic:claude-sonnet-5-5: attempt 1 of 4 failed: connection failed: cut;",
        "    again in 0.8 s",
    ]
    assert tty.lines()[:2] == broken_between_words
    assert tty.lines()[2:] == ["", "It is 345."]


def test_void_text_that_is_committed_gets_one_line_under_it() -> None:
    tty = Tty()
    screen = chat(tty)
    tell = Teller(screen)
    tell(
        TextStreamed("First.\n\nSec"),
        AttemptAbandoned(SONNET, 1, 11),
        TextStreamed("Anew."),
        answered(),
        ended("Anew."),
    )
    screen.end_turn()
    assert tty.lines() == ["First.", VOID_MARK, "Anew."]


def test_an_answer_that_is_asked_for_again_without_a_tool_is_marked_void() -> None:
    tty = Tty()
    screen = chat(tty)
    tell = Teller(screen)
    tell(
        TextStreamed("Cut off"),
        answered("max_tokens"),
        RoundStarted(2),
        TextStreamed("Whole."),
        answered(),
        ended("Whole."),
    )
    screen.end_turn()
    assert tty.lines() == ["Cut off", VOID_MARK, "Whole."]


def test_refused_text_is_marked_void_and_the_failure_is_one_line_with_what_now_and_trace() -> None:
    tty = Tty(120)
    screen = chat(tty)
    failed = ended("", "failed", error_message="the model declined to answer this", what_now="Ask differently.")
    Teller(screen)(TextStreamed("Well, first you"), answered("refusal"), failed)
    screen.end_turn()
    assert tty.lines() == [
        "Well, first you",
        VOID_MARK,
        "✗ the model declined to answer this. Ask differently. [trace tr-7]",
    ]


def test_a_stopped_answer_stays_readable_marked_and_says_what_was_kept() -> None:
    tty = Tty()
    screen = chat(tty)
    Teller(screen)(TextStreamed("Once upon a"), AttemptAbandoned(SONNET, 0, 11))  # the exchange ends first
    Teller(screen)(TurnCancelled("[stopped: note saved]"), ended("", "cancelled"))
    screen.end_turn()
    assert tty.lines() == ["Once upon a", VOID_MARK, "! stopped; [stopped: note saved]"]


def test_a_turn_that_dies_without_an_end_leaves_whole_lines_and_no_status() -> None:
    tty = Tty()
    screen = chat(tty)
    Teller(screen)(AttemptStarted(SONNET, 1, 1), TextStreamed("half"))
    screen.end_turn()
    assert tty.lines() == ["half", VOID_MARK]
    assert tty.screen.cursor.x == 0


def test_a_line_never_stands_in_the_middle_of_the_models_words() -> None:
    tty = Tty()
    screen = chat(tty)
    Teller(screen)(
        TextStreamed("Hello w"), NoticeGiven("By the way."), TextStreamed("orld."), answered(), ended("Hello world.")
    )
    screen.end_turn()
    assert tty.lines() == ["! By the way.", "", "Hello world."]


# --- steps and status -----------------------------------------------------------------------------------


def test_each_step_on_the_way_has_its_line() -> None:
    tty = Tty(160, 40)
    screen = chat(tty)
    tell = Teller(screen)
    tell(
        FaultInjected("model", "overloaded", ""),
        FellBack(SONNET, "model.anthropic.claude-haiku-5-5", "overloaded", "overloaded (529)"),
        FellBack("model.anthropic.claude-haiku-5-5", "", "overloaded", "overloaded (529)"),
        CallRejected("get_weather.open_meteo", "circuit_breaker", 42.4),
        RetryRefused("web_search.tavily", "the quota is spent"),
        LimiterWaited(SONNET, 0.1),
        LimiterWaited(SONNET, 1.26),
        ApprovalAsked("save_note", "abc", "tainted"),
        ApprovalAnswered("save_note", "abc", False, "person"),
        call_ended("degraded", "12 °C", source="cache, 5 min old", attempts=3),
        CircuitOpened("get_weather.open_meteo", 5, 60.0),
        CircuitClosed("get_weather.open_meteo"),
    )
    screen.end_turn()
    at = time.strftime("%H:%M:%S", time.localtime(WALL_S + 11 + 60))
    assert tty.lines() == [
        "! injected fault: model: overloaded",
        "→ anthropic:claude-sonnet-5-5 → anthropic:claude-haiku-5-5: overloaded (529)",
        "✗ anthropic:claude-haiku-5-5: overloaded (529); nothing else is left to ask",
        "· get_weather.open_meteo: not asked, its circuit breaker says no; free again in 42 s",
        "· web_search.tavily: no retry: the quota is spent",
        "· waiting 1.3 s for the rate limiter of anthropic:claude-sonnet-5-5",
        "✗ save_note refused by you",
        "! calculator(15 * 23) → 12 °C (12 ms, 3 tries, cache, 5 min old)",
        f"✗ get_weather.open_meteo: circuit open after 5 failures; next try at {at}",
        "✓ get_weather.open_meteo: works again, circuit closed",
    ]


def test_the_status_line_says_what_is_happening_and_is_gone_afterwards() -> None:
    tty = Tty()
    screen = chat(tty)
    tell = Teller(screen)
    tell(TurnStarted("?", 120), AttemptStarted(SONNET, 2, 4))
    assert tty.lines() == ["asking anthropic:claude-sonnet-5-5, attempt 2 of 4"]
    tell(ThinkingStreamed(100))
    assert tty.lines() == ["anthropic:claude-sonnet-5-5 is thinking…"]
    tell(answered("tool_use"), ToolCallStarted(CALL), ToolCallStarted(ToolUse("t2", "get_weather", {})))
    assert tty.lines() == ["tools: calculator, get_weather…"]
    tell(call_ended())
    assert tty.lines() == ["✓ calculator(15 * 23) → 345 (12 ms)", "tools: get_weather…"]
    screen.end_turn()
    assert tty.lines() == ["✓ calculator(15 * 23) → 345 (12 ms)"]


def test_open_circuits_and_faults_stand_in_the_status() -> None:
    tty = Tty(150)
    screen = chat(tty)
    tell = Teller(screen)
    tell(
        FaultsChanged(("model:overloaded*4",)),
        CircuitOpened("web_search.tavily", 3, 30.0),
        AttemptStarted(SONNET, 1, 4),
    )
    at = time.strftime("%H:%M:%S", time.localtime(WALL_S + 2 + 30))
    assert tty.lines()[0] == "! faults on: model:overloaded*4"
    assert tty.lines()[-1] == (
        f"! faults on: model:overloaded*4 · web_search.tavily open until {at}"
        " · asking anthropic:claude-sonnet-5-5, attempt 1 of 4"
    )
    tell(CircuitClosed("web_search.tavily"), FaultsChanged(()))
    screen.status_source = lambda: Standing("practice", ("x open",), ("*:error",))
    tell(AttemptStarted(SONNET, 1, 4))
    assert tty.lines()[-1].startswith("! faults on: *:error · x open · asking")
    assert Standing("practice", ("x open",), ("*:error",)).words() == "! faults on: *:error · practice · x open"


def test_the_status_never_takes_more_than_one_row() -> None:
    for columns in (1, 2, 7, 30):
        tty = Tty(columns)
        screen = chat(tty)
        Teller(screen)(AttemptStarted("model.local.漢字漢字漢字漢字", 1, 4))
        assert len(tty.lines()) <= 1
        screen.end_turn()
        assert tty.lines() == []


def test_nothing_is_drawn_while_a_person_is_asked() -> None:
    tty = Tty()
    screen = chat(tty)
    Teller(screen)(AttemptStarted(SONNET, 1, 1), answered("tool_use"), ApprovalAsked("save_note", "abc", "why"))
    assert tty.lines() == []


def test_verbose_shows_every_attempt_and_what_it_cost() -> None:
    tty = Tty(160)
    screen = chat(tty, verbose=True)
    tell = Teller(screen)
    tell(TurnStarted("?", 120), AttemptStarted(SONNET, 1, 4))
    tell(AttemptFailed(SONNET, 1, "overloaded", "transient", "failure", "overloaded (529)", 529, "req_1"))
    tell(AttemptStarted(SONNET, 2, 4), TextStreamed("Hi."), AttemptSucceeded(SONNET, 2), answered(), ended("Hi."))
    screen.end_turn()
    text = "\n".join(tty.lines())
    assert "asking anthropic:claude-sonnet-5-5, attempt 1 of 4" in text
    assert "attempt 1 of 4 failed: overloaded (529) (transient, failure, request req_1)" in text
    assert text.count("Hi.") == 1
    assert "10 tokens in, 5 out, $0.0012" in text


def test_unknown_usage_and_cost_are_said_to_be_unknown() -> None:
    tty = Tty()
    screen = chat(tty, verbose=True)
    Teller(screen)(TurnStarted("?", 1), TurnEnded("ok", "x", None, Usage(), None))
    assert tty.lines()[-1] == "· ? tokens in, ? out, cost unknown, 1.0 s"


# --- one-shot -------------------------------------------------------------------------------------------


def one_shot(stderr: io.StringIO, *, verbose: bool = False, answers: bool = True) -> tuple[Screen, io.StringIO]:
    out = io.StringIO()
    screen = Screen.for_one_shot(out, stderr, XTERM, verbose=verbose, answers=answers)
    screen.begin_turn()
    return screen, out


def test_into_a_pipe_goes_the_final_text_alone_and_never_void_text() -> None:
    err = io.StringIO()
    screen, out = one_shot(err)
    tell = Teller(screen)
    tell(AttemptStarted(SONNET, 1, 4), TextStreamed("Void.\n\nVoid"), AttemptAbandoned(SONNET, 1, 11))
    assert out.getvalue() == ""
    tell(TextStreamed("It is **345**."), answered(), ToolCallStarted(CALL), call_ended(), ended("It is **345**."))
    screen.end_turn()
    assert out.getvalue() == "It is **345**.\n"
    assert err.getvalue() == ""


def test_a_quiet_one_shot_tells_how_it_ended_and_leaves_the_way_there_to_the_log() -> None:
    err = io.StringIO()
    screen, out = one_shot(err)
    tell = Teller(screen)
    tell(CircuitOpened("get_weather.open_meteo", 5, 60.0), NoticeGiven("Shortened."))
    tell(ended("Text.", "degraded", degraded=("get_weather",)))
    screen.end_turn()
    assert out.getvalue() == "Text.\n"
    assert [line[0] for line in err.getvalue().splitlines()] == ["!", "!"]
    assert "\x1b" not in err.getvalue()


def test_verbose_tells_every_step_on_stderr_also_without_a_terminal() -> None:
    err = io.StringIO()
    screen, out = one_shot(err, verbose=True)
    Teller(screen)(AttemptStarted(SONNET, 1, 4), call_ended(), ended("Text."))
    assert "attempt 1 of 4" in err.getvalue()
    assert "calculator(15 * 23)" in err.getvalue()
    assert out.getvalue() == "Text.\n"


def test_with_json_stdout_is_left_to_the_program() -> None:
    screen, out = one_shot(io.StringIO(), answers=False)
    Teller(screen)(TextStreamed("Text."), answered(), ended("Text."))
    screen.end_turn()
    assert out.getvalue() == ""


def test_a_failed_one_shot_prints_nothing_on_stdout() -> None:
    err = io.StringIO()
    screen, out = one_shot(err)
    Teller(screen)(TextStreamed("No"), ended("", "failed", error_message="overloaded (529)", what_now="Ask again."))
    screen.end_turn()
    assert out.getvalue() == ""
    assert err.getvalue() == "✗ overloaded (529). Ask again. [trace tr-7]\n"


# --- terminals that cannot ------------------------------------------------------------------------------


@pytest.mark.parametrize("environ", [{"TERM": "dumb"}, {}])
def test_a_dumb_terminal_gets_lines_without_any_escape(environ: dict[str, str]) -> None:
    tty = Tty()
    screen = chat(tty, environ)
    tell = Teller(screen)
    tell(AttemptStarted(SONNET, 1, 4), TextStreamed("It *w"), AttemptAbandoned(SONNET, 1, 5))
    tell(TextStreamed("It *is*"), NoticeGiven("Hm."), TextStreamed("."), answered(), ended("It *is*."))
    screen.end_turn()
    assert "\x1b" not in tty.getvalue()
    assert "\r" not in tty.getvalue()
    assert tty.lines() == ["It *w", VOID_MARK, "It *is*", "! Hm.", "", "."]


def test_no_color_means_no_styles() -> None:
    tty = Tty()
    screen = chat(tty, {**XTERM, "NO_COLOR": "1"})
    Teller(screen)(
        AttemptStarted(SONNET, 1, 4),
        TextStreamed("# Hi\n\n```python\nimport os\n```\n"),
        call_ended("failed"),
        ended(""),
    )
    assert not re.search(r"\x1b\[[\d;]*m", tty.getvalue())


def test_an_ascii_terminal_gets_ascii_stand_ins_and_question_marks_but_no_error() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    screen = Screen.for_chat(Sink(out, {"TERM": "dumb"}))
    Teller(screen)(call_ended(), TextStreamed("漢字 – ok…"), answered(), ended("漢字 – ok…"))
    assert raw.getvalue() == b"+ calculator(15 * 23) -> 345 (12 ms)\n\n?? ? ok...\n"


def test_colours_are_of_the_sixteen_and_without_background() -> None:
    tty = Tty()
    screen = chat(tty)
    code = "```python\nimport os\nclass A:\n    '''doc'''\n    x = 1 # no\n```\n"
    Teller(screen)(
        TextStreamed("# H\n\n" + code + "`a` **b** [c](http://d)\n\n> q\n"), answered(), call_ended("failed"), ended("")
    )
    codes = {code for found in re.findall(r"\x1b\[([\d;]*)m", tty.getvalue()) for code in found.split(";")}
    assert codes <= {"", "1", "2", "3", "9", *map(str, range(30, 38)), *map(str, range(90, 98))}


# --- hostile text ---------------------------------------------------------------------------------------

HOSTILE = "\x1b]52;c;aGk=\x07\x1b[2J\x9b31m\u202e\x00\r\nfake"


def test_no_foreign_control_character_reaches_the_screen_through_any_event() -> None:
    tty = Tty()
    screen = chat(tty, verbose=True)
    call = ToolUse("t", HOSTILE, {HOSTILE: HOSTILE})
    bad = ToolUse("u", HOSTILE, {}, raw=HOSTILE, problem=HOSTILE)
    tell = Teller(screen)
    tell(
        FaultsChanged((HOSTILE,)),
        FaultInjected(HOSTILE, HOSTILE, HOSTILE),
        AttemptStarted("model." + HOSTILE, 1, 2),
        AttemptFailed(HOSTILE, 1, HOSTILE, "transient", "failure", HOSTILE, None, HOSTILE),
        AttemptSucceeded(HOSTILE, 1),
        RetryScheduled(HOSTILE, 1, 1.0, HOSTILE, HOSTILE),
        RetryRefused(HOSTILE, HOSTILE),
        LimiterWaited(HOSTILE, 1.0),
        CallRejected(HOSTILE, HOSTILE, 1.0),
        CircuitOpened(HOSTILE, 1, 1.0),
        FellBack(HOSTILE, HOSTILE, HOSTILE, HOSTILE),
        ToolCallStarted(call),
        ToolCallStarted(bad),
        ToolCallEnded(CallResult(call, "ok", HOSTILE, source=HOSTILE)),
        ToolCallEnded(CallResult(bad, "invalid", HOSTILE)),
        ApprovalAnswered(HOSTILE, HOSTILE, True, HOSTILE),
        NoticeGiven(HOSTILE),
        TextStreamed(HOSTILE),
        ModelAnswered(HOSTILE, HOSTILE, HOSTILE, Usage(), None),
        TurnCancelled(HOSTILE),
        ended(HOSTILE, "failed", error_message=HOSTILE, what_now=HOSTILE),
        ended(HOSTILE, "degraded", degraded=(HOSTILE,)),
    )
    screen.notice(HOSTILE)
    screen.end_turn()
    ours = re.sub(r"\x1b\[[\d;]*[mAJK]|\r(?=\x1b|[^\n])", "", tty.getvalue())
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", ours)
    assert tty.screen.title == ""


def test_a_sequence_split_between_two_deltas_stays_harmless() -> None:
    tty = Tty()
    screen = chat(tty)
    Teller(screen)(*(TextStreamed(character) for character in "a\x1b]0;evil\x07b\x1b[31mc"), answered())
    screen.end_turn()
    assert tty.screen.title == ""
    assert tty.lines() == ["a␛]0;evil␇b␛[31mc"]


# --- the other side is gone -----------------------------------------------------------------------------


class Gone(io.StringIO):
    """A stream whose reader left: every write fails with `error`."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(errno.EIO, "pty gone"), ValueError("closed file")])
def test_a_closed_output_is_one_clear_error_also_at_the_end_of_the_turn(error: Exception) -> None:
    screen = Screen.for_chat(Sink(Gone(error), XTERM))
    screen.begin_turn()
    with pytest.raises(OutputClosed):
        Teller(screen)(TextStreamed("text"))
    with pytest.raises(OutputClosed):
        screen.end_turn()


def test_a_missing_stdout_counts_as_closed() -> None:
    screen = Screen.for_one_shot(None, None, {})
    with pytest.raises(OutputClosed):
        Teller(screen)(ended("text"))


def test_a_closed_stderr_never_stops_an_answer() -> None:
    out = io.StringIO()
    screen = Screen.for_one_shot(out, Gone(BrokenPipeError()), XTERM, verbose=True)
    screen.begin_turn()
    Teller(screen)(AttemptStarted(SONNET, 1, 1), NoticeGiven("x"), ended("text"))
    screen.end_turn()
    assert out.getvalue() == "text\n"


def test_a_reader_that_leaves_makes_no_noise_at_exit() -> None:
    program = (
        "import sys\n"
        "from ui.sink import OutputClosed, Sink\n"
        "sink = Sink(sys.stdout, {})\n"
        "try:\n"
        "    while True: sink.write('x' * 5000)\n"
        "except OutputClosed: sys.exit(141)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.read(10)
    process.stdout.close()
    process.stdout = None
    assert process.communicate(timeout=30)[1] == b""
    assert process.returncode == 141


def test_a_size_nobody_knows_is_the_usual_one() -> None:
    assert Sink(io.StringIO(), {}).size() == (80, 24)
    assert Sink(None, {}).size() == (80, 24)


def test_a_theme_never_moves_the_cursor_of_a_pipe() -> None:
    assert Theme.of(io.StringIO(), XTERM) == Theme(moves=False, colour=False, unicode=True)
    assert Theme.of(Tty(), XTERM) == Theme(moves=True, colour=True, unicode=True)
    closed = io.TextIOWrapper(io.BytesIO())
    closed.close()
    assert not Theme.of(closed, XTERM).moves


def test_importing_the_screen_does_not_import_rich() -> None:
    check = (
        "import sys, ui.screen; sys.exit(any(m in sys.modules for m in ('rich', 'markdown_it', 'pygments', 'asyncio')))"
    )
    assert subprocess.run([sys.executable, "-c", check], cwd=Path(__file__).parent.parent, check=False).returncode == 0
