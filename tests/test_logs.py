"""One event is one line, nothing secret stands in it, and a broken log never reaches the person."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import stat
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import events as e
from errors import ConfigurationError
from events import Event, Stamped
from messages import CallResult, ToolUse, Usage
from safe_text import MASK
from telemetry import log_file
from telemetry.attributes import event_name
from telemetry.log_events import CONTEXT, NOT_LOGGED, ROWS
from telemetry.log_file import OLD_FILES_MAX, SharedFileHandler
from telemetry.log_lines import FIELDS, LineFormatter
from telemetry.logs import FILE_NAME, LogListener, configure_logging

ROOT = Path(__file__).resolve().parent.parent
KEY = "sk-ant-api03-abcdefghijklmnop"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("unflappable")
    before = (root.level, ours.level, logging.raiseExceptions, threading.excepthook, sys.unraisablehook)
    handlers = list(root.handlers)
    yield
    logging.captureWarnings(False)
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(before[0])
    ours.setLevel(before[1])
    logging.raiseExceptions, threading.excepthook, sys.unraisablehook = before[2:]


def chat(folder: Path, **more: Any) -> Path:
    assert configure_logging("chat", folder, **more) == []
    return folder / FILE_NAME


def tell(event: Event, **scope: str | int) -> None:
    LogListener()(Stamped(event, scope, 1, 0.0, 0.0))


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def objects(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(path)]


def ended(status: str) -> Event:
    return e.TurnEnded(status, "the answer", "practice", Usage(1, 2, 0, 0), 0.5, ("get_weather",))


# --- lines -----------------------------------------------------------------------------------------------


def test_an_event_is_one_line_of_fields_with_where_it_happened(tmp_path: Path) -> None:
    path = chat(tmp_path)
    tell(e.CircuitOpened("get_weather.open_meteo", 5, 60.0), turn="t1", session="s1", call="c1", attempt=2)
    (line,) = lines(path)
    assert re.fullmatch(
        TIME + r" WARNING circuit_opened dependency=get_weather\.open_meteo failures=5 open_s=60\.0"
        r" trace=t1 session=s1 call=c1 attempt=2",
        line,
    )


def test_json_is_one_object_a_line_with_plain_values(tmp_path: Path) -> None:
    path = chat(tmp_path, format="json")
    tell(ended("degraded"), turn="t1")
    (line,) = objects(path)
    assert re.fullmatch(TIME, line.pop("time"))
    assert line == {
        "level": "WARNING", "event": "turn_ended", "status": "degraded", "model": "practice",
        "answer_chars": 10, "input_tokens": 1, "output_tokens": 2, "cost_usd": 0.5,
        "degraded": ["get_weather"], "trace": "t1",
    }  # fmt: skip


def test_what_other_libraries_log_is_a_quoted_message(tmp_path: Path) -> None:
    path = chat(tmp_path)
    logging.getLogger("httpx2").warning('HTTP Request: %s "%s"', "GET /", "200 OK")
    assert lines(path)[0].endswith(r' WARNING log logger=httpx2 message="HTTP Request: GET / \"200 OK\""')


def test_a_message_that_cannot_be_formatted_is_still_a_line(tmp_path: Path) -> None:
    path = chat(tmp_path)
    logging.getLogger("foreign").error("%d items", "three")
    assert 'message="%d items (could not be formatted)"' in lines(path)[0]


def test_an_exception_is_part_of_its_line(tmp_path: Path) -> None:
    path = chat(tmp_path, format="json")
    try:
        raise ValueError(f"bad\nkey {KEY}")
    except ValueError:
        logging.getLogger("foreign").exception("it failed")
    (line,) = objects(path)
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert line["exception"].endswith(f"ValueError: bad\nkey {MASK}")


_NASTY = st.one_of(
    st.text(max_size=80),
    st.sampled_from(
        ["a\nERROR fake event=1", "x status=ok trace=t9", 'q" status="ok', "\x1b[2J", "a\x85b\u2028c\x1cd", "\\", ""]
    ),
)
_FIELD = re.compile(r' ([a-z][a-z0-9_]*)=("(?:[^"\\]|\\.)*"|[^\s"=]+)')


@settings(max_examples=300, deadline=None)
@given(_NASTY, _NASTY, _NASTY)
def test_no_value_makes_a_second_line_or_a_fake_field(message: str, name: str, trace: str) -> None:
    for as_json in (False, True):
        record = logging.LogRecord("unflappable.events", 30, "", 0, "attempt_failed", None, None)
        setattr(record, FIELDS, {"dependency": name, "message": message, "trace": trace})
        line = LineFormatter(as_json=as_json).format(record)
        assert len(line.splitlines()) == 1
        assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", line)
        if as_json:
            assert list(json.loads(line)) == ["time", "level", "event", "dependency", "message", "trace"]
        else:
            head, fields = line[: 24 + 23], line[24 + 23 :]  # the time, " WARNING attempt_failed"
            assert head.endswith(" WARNING attempt_failed")
            assert [field[0] for field in _FIELD.findall(fields)] == ["dependency", "message", "trace"]
            assert _FIELD.sub("", fields) == ""


@settings(max_examples=150, deadline=None)
@given(_NASTY, _NASTY)
def test_foreign_loggers_and_their_words_cannot_either(logger: str, words: str) -> None:
    record = logging.LogRecord(logger, 40, "", 0, words, None, None)
    fields = LineFormatter(as_json=False).format(record)[24 + 10 :]
    assert [field[0] for field in _FIELD.findall(fields)] == ["logger", "message"]
    assert _FIELD.sub("", fields) == ""


def test_values_and_tracebacks_are_bounded(tmp_path: Path) -> None:
    path = chat(tmp_path)
    tell(e.NoticeGiven("x" * 1_000_000))
    logging.getLogger("foreign").error("y" * 1_000_000, exc_info=ValueError("z" * 1_000_000))
    assert max(len(line) for line in lines(path)) < 20_000


# --- secrets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize(
    "said",
    [
        f"the key {KEY} was refused",
        "headers: {'x-api-key': 'PLAIN-secret-1', 'accept': '*/*'}",
        "headers: [(b'X-Api-Key', b'PLAIN-secret-1'), (b'accept', b'*/*')]",
        "x-goog-api-key: PLAIN-secret-1",
        "Authorization: Basic PLAIN-secret-1",
        "GET https://searx.example/search?api_key=PLAIN-secret-1&q=weather",
        "GET https://ada:PLAIN-secret-1@proxy.example/",
    ],
)
def test_no_secret_is_written_whoever_logs_it_at_any_level(tmp_path: Path, said: str, format: Any) -> None:
    path = chat(tmp_path, level="DEBUG", format=format)
    for name in ("httpx2", "anthropic._base_client"):
        logging.getLogger(name).debug("%s", said)
    tell(e.AttemptFailed("d", 1, "authentication", "fatal", "neutral", said, 401, said), session=said)
    tell(e.FaultsChanged((said,)))
    written = path.read_text(encoding="utf-8")
    assert len(written.splitlines()) == 4
    assert "PLAIN-secret-1" not in written
    assert KEY not in written
    assert written.count(MASK) >= 6
    assert "[secret]]" not in written


def test_the_words_of_people_are_not_logged(tmp_path: Path) -> None:
    path = chat(tmp_path, level="DEBUG")
    call = ToolUse("c1", "save_note", {"content": "private"})
    tell(e.TurnStarted("private question", 120.0))
    tell(e.TextStreamed("private"))
    tell(e.ToolCallStarted(call))
    tell(e.ToolCallEnded(CallResult(call, "ok", "private")))
    tell(e.TurnEnded("ok", "private", None, Usage(), None))
    assert len(lines(path)) == 4
    assert "private" not in path.read_text()


# --- levels and places -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "level"),
    [
        (ended("ok"), "INFO"),
        (ended("cancelled"), "INFO"),
        (ended("degraded"), "WARNING"),
        (ended("needs_human"), "WARNING"),
        (ended("failed"), "ERROR"),
        (e.AttemptFailed("d", 1, "timeout", "transient", "failure", "m"), "WARNING"),
        (e.FellBack("a", "b", "timeout", "m"), "WARNING"),
        (e.ToolCallEnded(CallResult(ToolUse("c", "t", {}), "unknown", "")), "WARNING"),
        (e.ToolCallEnded(CallResult(ToolUse("c", "t", {}), "ok", "")), "INFO"),
    ],
)
def test_how_loud_an_event_is_follows_how_it_ended(tmp_path: Path, event: Event, level: str) -> None:
    path = chat(tmp_path, format="json")
    tell(event)
    assert [line["level"] for line in objects(path)] == [level]


def test_in_a_chat_nothing_is_written_to_the_screen(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = chat(tmp_path)
    tell(ended("failed"))
    logging.getLogger("foreign").critical("boom")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", UserWarning, stacklevel=1)
    broken = threading.Thread(target=lambda: 1 // 0)
    broken.start()
    broken.join()
    hook: Any = sys.unraisablehook
    hook(SimpleNamespace(exc_value=ValueError(KEY), err_msg="in a finalizer", object=None))
    assert capfd.readouterr() == ("", "")
    assert [line.split()[2] for line in lines(path)] == ["turn_ended", "log", "log", "log", "log"]
    assert "ZeroDivisionError" in lines(path)[3]
    assert MASK in lines(path)[4]


def test_one_shot_says_warnings_on_stderr_and_nothing_on_stdout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert configure_logging("one_shot", tmp_path, "DEBUG") == []
    tell(ended("ok"))
    tell(ended("failed"))
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split()[1] for line in err.splitlines()] == ["ERROR"]
    assert list(tmp_path.iterdir()) == []


def test_verbose_says_more_and_a_higher_level_less(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("one_shot", tmp_path, verbose=True)
    tell(ended("ok"))
    logging.getLogger("httpx2").info("HTTP Request: POST /v1/messages")
    assert [line.split()[2] for line in capsys.readouterr().err.splitlines()] == ["turn_ended"]
    configure_logging("one_shot", tmp_path, "ERROR")
    tell(e.FellBack("a", "b", "timeout", "m"))
    assert capsys.readouterr().err == ""
    path = chat(tmp_path, verbose=True)
    tell(e.AttemptStarted("d", 1, 4))
    assert len(lines(path)) == 1


def test_a_second_call_takes_the_place_of_the_first(tmp_path: Path) -> None:
    first, second = chat(tmp_path / "a"), chat(tmp_path / "b")
    tell(ended("ok"))
    assert (len(lines(first)), len(lines(second))) == (0, 1)


def test_an_unknown_level_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="LOG_LEVEL 'LOUD': one of DEBUG, INFO"):
        configure_logging("chat", tmp_path, "loud".upper())


# --- the file --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_the_log_is_0600_in_a_folder_0700_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        path = chat(tmp_path / "state")
        tell(ended("ok"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_place_that_cannot_be_written_is_one_warning_and_silence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    (warning,) = configure_logging("chat", tmp_path / "file")
    assert warning.startswith("No log is kept: ")
    assert FILE_NAME in warning
    tell(ended("failed"))
    logging.getLogger("foreign").critical("boom")
    assert capfd.readouterr() == ("", "")


def record(message: str) -> logging.LogRecord:
    return logging.LogRecord("x", 20, "", 0, message, None, None)


def test_a_full_file_is_turned_over_and_only_some_old_ones_are_kept(tmp_path: Path) -> None:
    handler = SharedFileHandler(tmp_path / "agent.log", bytes_max=100)
    for number in range(40):
        handler.handle(record(f"line {number:02} " + "x" * 20))
    handler.close()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["agent.log"] + [f"agent.log.{n + 1}" for n in range(OLD_FILES_MAX)]
    assert all(file.stat().st_size <= 100 for file in files)
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    kept = [line for file in (*reversed(files[1:]), files[0]) for line in lines(file)]
    assert [line[:7] for line in kept] == [f"line {n:02}" for n in range(40 - len(kept), 40)]


def test_two_processes_that_turn_the_file_over_lose_no_line_and_tear_none(tmp_path: Path) -> None:
    """Two handlers hold separate open files, as two processes do."""
    path = tmp_path / "agent.log"
    first, second = SharedFileHandler(path, bytes_max=1000), SharedFileHandler(path, bytes_max=1000)
    for number in range(60):
        (first if number % 3 else second).handle(record(f"line {number:02} " + "x" * 20))
    first.close()
    second.close()
    kept = [line for file in tmp_path.iterdir() for line in lines(file)]
    assert sorted(kept) == [f"line {number:02} " + "x" * 20 for number in range(60)]


def test_who_comes_second_to_a_full_file_does_not_turn_over_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process rotates between this one's look at the size and its lock."""
    path = tmp_path / "agent.log"
    first, second = SharedFileHandler(path, bytes_max=50), SharedFileHandler(path, bytes_max=50)
    first.handle(record("old " + "x" * 40))
    real = vars(log_file)["flock"]

    def overtaken(*args: Any) -> None:
        monkeypatch.setattr(log_file, "flock", real)
        second.handle(record("second"))
        real(*args)

    monkeypatch.setattr(log_file, "flock", overtaken)
    first.handle(record("first"))
    first.close()
    second.close()
    assert lines(path) == ["second", "first"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["agent.log", "agent.log.1"]


def test_real_processes_write_whole_lines(tmp_path: Path) -> None:
    script = (
        "import sys, logging; from pathlib import Path; from telemetry.log_file import SharedFileHandler\n"
        "handler = SharedFileHandler(Path(sys.argv[1]), bytes_max=60_000)\n"
        "for n in range(500):\n"
        "    text = f'{sys.argv[2]} {n:04} ' + 'x' * 100\n"
        "    handler.handle(logging.LogRecord('x', 20, '', 0, text, None, None))\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "agent.log"), name], cwd=ROOT) for name in "ab"
    ]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    kept = sorted(line for file in tmp_path.iterdir() for line in lines(file))
    assert kept == sorted(f"{name} {n:04} " + "x" * 100 for name in "ab" for n in range(500))


def test_a_file_moved_or_deleted_under_the_program_is_begun_anew(tmp_path: Path) -> None:
    handler = SharedFileHandler(tmp_path / "state" / "agent.log")
    handler.handle(record("one"))
    (tmp_path / "state" / "agent.log").unlink()
    (tmp_path / "state").rmdir()
    handler.handle(record("two"))
    handler.close()
    assert lines(tmp_path / "state" / "agent.log") == ["two"]


def test_a_link_in_the_place_of_the_log_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).symlink_to(tmp_path / "elsewhere")
    assert len(configure_logging("chat", tmp_path)) == 1
    assert not (tmp_path / "elsewhere").exists()


def test_half_a_line_left_by_a_full_disk_does_not_swallow_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = SharedFileHandler(tmp_path / "agent.log")
    real = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda file, data: real(file, data[:4]))
        handler.handle(record("torn line"))
    handler.handle(record("whole line"))
    handler.close()
    assert lines(tmp_path / "agent.log") == ["torn", "whole line"]


def test_a_full_disk_and_a_closed_stderr_cost_lines_only(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = chat(tmp_path)

    def no_space(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "write", no_space)
        tell(ended("failed"))
    tell(ended("ok"))
    assert len(lines(path)) == 1
    configure_logging("one_shot", tmp_path)
    closed = io.StringIO()
    closed.close()
    for stream in (closed, None):
        monkeypatch.setattr(sys, "stderr", stream)
        tell(ended("failed"))
    assert capfd.readouterr() == ("", "")


# --- the table -------------------------------------------------------------------------------------------


def test_every_event_is_logged_or_left_out_on_purpose() -> None:
    kinds = {kind for kind in vars(e).values() if isinstance(kind, type) and issubclass(kind, Event)}
    assert kinds - {Event} == set(ROWS) | set(NOT_LOGGED)
    assert not set(ROWS) & set(NOT_LOGGED)


@pytest.mark.parametrize("kind", ROWS, ids=lambda kind: kind.__name__)
def test_every_field_of_the_table_exists(kind: type[Event]) -> None:
    call = ToolUse("c1", "t", {})
    samples = {
        "call": call,
        "result": CallResult(call, "ok", "", source="s"),
        "usage": Usage(1, 2),
        "degraded": (),
        "specs": (),
    }
    names = list(getattr(kind, "__dataclass_fields__", {}))
    event = kind(**{name: samples.get(name, "word") for name in names})
    values = ROWS[kind].values(Stamped(event, {}, 1, 0.0, 0.0))
    assert tuple(values) == ROWS[kind].names


def table() -> str:
    rows = ["| event | level | when | fields |", "|---|---|---|---|"]
    for kind, row in ROWS.items():
        level = logging.getLevelName(row.level)
        others = "".join(f"; {status}: {logging.getLevelName(level)}" for status, level in row.by_status.items())
        fields = " ".join(f"`{name}`" for name in row.names)
        rows.append(f"| `{event_name(kind)}` | {level}{others} | {row.when} | {fields} |")
    return "\n".join(rows)


def test_the_documented_table_is_the_one_in_the_code() -> None:
    page = (ROOT / "docs" / "log-events.md").read_text(encoding="utf-8")
    assert table() in page, f"docs/log-events.md should contain:\n\n{table()}"
    for _, name in CONTEXT:
        assert f"`{name}`" in page.partition("| event |")[0]
