"""What users script against: options, exit codes, questions from stdin, and the JSON report to the letter."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cli
import safe_text
from cli import STDIN_BYTES_MAX, Options, UsageError, question_from
from core.report import TurnReport
from errors import AgentError, ConfigurationError
from messages import CallResult, ToolUse, Usage
from safe_text import MASK, register_secret
from ui.options import parse
from version import VERSION

ROOT = Path(__file__).parent.parent
TOKENS = ["input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"]
KEYS = [
    "status", "text", "model", "session_id", "trace_id", "tool_calls", "degraded", "usage", "cost_usd", "attempts",
    "duration_ms", "error",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No secret outlives its test, nor do the signals that `leave` ignores."""
    monkeypatch.setattr(safe_text, "_known_secrets", [])
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# --- options ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "options"),
    [
        (["What is 2 + 2?"], Options("What is 2 + 2?")),
        ([""], Options("")),
        (["--json", "q"], Options("q", json=True)),
        (["q", "--json"], Options("q", json=True)),
        (["--model", "anthropic:a,practice", "q"], Options("q", model="anthropic:a,practice")),
        (["--offline"], Options(offline=True)),
        (["--fault", "model:error", "--fault=disk:full*1"], Options(faults=("model:error", "disk:full*1"))),
        (["--seed", "7"], Options(seed=7)),
        (["--seed", "-7"], Options(seed=-7)),
        (["--approve", "ask"], Options(approve="ask")),
        (["--approve=auto"], Options(approve="auto")),
        (["--approve", "never"], Options(approve="never")),
        (["--trace", "abc"], Options(trace="abc")),
        (["--verbose"], Options(verbose=True)),
        (["-c"], Options(continues=True)),
        (["--continue", "and now?"], Options("and now?", continues=True)),
        (["--resume", "3f2a"], Options(resume="3f2a")),
        (["--task-id", "job 7", "why?"], Options("why?", task_id="job 7")),
        (["--", "--json"], Options("--json")),
        (["-"], Options("-")),
    ],
)
def test_the_options_of_the_contract(argv: list[str], options: Options) -> None:
    assert parse(argv, "agent.py") == options


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--nope"], "--nope"),
        (["-x"], "-x"),
        (["one", "two"], "two"),
        (["--seed", "x"], "'--seed': Input should be a valid integer"),
        (["--seed", "1.5"], "valid integer"),
        (["--seed"], "--seed"),
        (["--fault"], "--fault"),
        (["--model"], "--model"),
        (["--model", " "], "--model is empty"),
        (["--approve", "maybe"], "allowed is ask, auto or never"),
        (["--approve", "ASK"], "allowed is ask, auto or never"),
        (["--offline", "--model", "anthropic:x"], "contradict"),
        (["--json=yes"], "--json"),
        (["--budget", "1"], "--budget"),  # not built yet: absent, not a stub
        (["--resume"], "--resume"),
        (["--resume", " "], "--resume is empty"),
        (["--task-id", ""], "--task-id is empty"),
        (["-c", "--resume", "x"], "contradict"),
        (["-c", "--task-id", "x", "why?"], "session of its own"),
        (["--resume", "x", "--task-id", "x", "why?"], "session of its own"),
        (["--\x1b[2J"], "No such option: --"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error_that_names_what_is_wrong(argv: list[str], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(argv, "agent.py")
    assert says in caught.value.message
    assert "\n" not in caught.value.message
    assert "\x1b" not in caught.value.message
    assert caught.value.type == "ConfigurationError"


@pytest.mark.parametrize(("argv", "says"), [(["--version"], f"unflappable {VERSION}"), (["--help"], "--approve")])
def test_help_and_version_are_told_on_stdout_and_end_with_0(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(argv, "agent.py")
    assert ended.value.code == 0
    assert says in capsys.readouterr().out


def test_exit_codes_by_status() -> None:
    assert cli.EXIT_OF_STATUS == {"ok": 0, "degraded": 0, "failed": 1, "needs_human": 3, "cancelled": 130}
    assert (cli.USAGE, cli.CLOSED_STDOUT) == (2, 141)


# --- the question ----------------------------------------------------------------------------------------


class Stdin:
    def __init__(self, data: bytes, *, terminal: bool = False) -> None:
        self.buffer = io.BytesIO(data)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def asked(monkeypatch: pytest.MonkeyPatch, stdin: Any, options: Options | None = None) -> str | None:
    monkeypatch.setattr(sys, "stdin", stdin)
    return question_from(options or Options())


def test_the_question_is_the_argument_else_stdin_else_a_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    piped = Stdin("Wie spät?\n".encode())
    assert asked(monkeypatch, piped, Options("from the argument")) == "from the argument"
    assert asked(monkeypatch, piped) == "Wie spät?\n"
    assert asked(monkeypatch, Stdin(b"", terminal=True)) is None


@pytest.mark.parametrize("options", [Options(continues=True), Options(resume="3f2a")])
def test_an_earlier_session_needs_no_question_since_one_may_have_been_cut_off(
    monkeypatch: pytest.MonkeyPatch, options: Options
) -> None:
    terminal = Stdin(b"", terminal=True)
    assert asked(monkeypatch, terminal, options) is None  # a chat
    assert asked(monkeypatch, Stdin(b"\n"), options) == ""
    assert asked(monkeypatch, terminal, replace(options, json=True)) == ""
    assert asked(monkeypatch, Stdin(b"and now?"), options) == "and now?"
    with pytest.raises(UsageError, match="the question is empty"):
        asked(monkeypatch, terminal, replace(options, prompt=" "))


def test_a_chat_is_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--task-id needs a question"):
        asked(monkeypatch, Stdin(b"", terminal=True), Options(task_id="t"))


@pytest.mark.parametrize(
    ("stdin", "options", "says"),
    [
        (Stdin(b""), Options(), "the question is empty"),
        (Stdin(b" \r\n\t"), Options(), "the question is empty"),
        (None, Options(), "the question is empty"),
        (Stdin(b"x", terminal=True), Options(""), "the question is empty"),
        (Stdin(b"", terminal=True), Options(json=True), "--json needs a question"),
        (Stdin(b"x" * (STDIN_BYTES_MAX + 1)), Options(), "more than 4 MiB"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_without_a_usable_question_it_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, stdin: Any, options: Options, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        asked(monkeypatch, stdin, options)


def test_stdin_of_exactly_four_mebibytes_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    question = asked(monkeypatch, Stdin(b"x" * STDIN_BYTES_MAX))
    assert question is not None
    assert len(question) == STDIN_BYTES_MAX


def test_bytes_that_are_no_text_are_replaced_and_can_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(monkeypatch, Stdin(b"a\xff\xfeb \xc3")) == "a��b �"
    argument = asked(monkeypatch, Stdin(b""), Options("caf\udce9 \ud800"))
    assert argument is not None
    argument.encode()


def test_stdin_that_cannot_be_read_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, into: Any) -> int:
            raise OSError(5, "Input/output error")

    stdin = Stdin(b"")
    stdin.buffer = io.BufferedReader(Broken())  # type: ignore[assignment]
    with pytest.raises(UsageError, match="stdin cannot be read"):
        asked(monkeypatch, stdin)


# --- the report ------------------------------------------------------------------------------------------


def report(**changes: Any) -> TurnReport:
    fields: dict[str, Any] = {
        "status": "ok", "text": "345", "model": "anthropic:m", "tool_calls": (), "degraded": (),
        "usage": Usage(1, 2, 3, 4), "cost_usd": 0.5, "duration_ms": 12, "error": None,
    }  # fmt: skip
    return TurnReport(**{**fields, **changes})


def reported(**changes: Any) -> dict[str, Any]:
    line = cli.json_line(cli.report_json(report(**changes), session_id="s", trace_id="t", model_attempts=2))
    assert line.isascii()
    assert "\n" not in line
    found: dict[str, Any] = json.loads(line)
    return found


def test_the_report_has_exactly_the_shape_of_the_contract() -> None:
    call = CallResult(ToolUse("c1", "get_weather", {"city": "Rome"}), "degraded", "22 °C", 3, 40, "cache, 5 min old")
    assert reported(status="degraded", tool_calls=(call,), degraded=("get_weather",)) == {
        "status": "degraded",
        "text": "345",
        "model": "anthropic:m",
        "session_id": "s",
        "trace_id": "t",
        "tool_calls": [
            {
                "id": "c1",
                "name": "get_weather",
                "input": {"city": "Rome"},
                "output": "22 °C",
                "status": "degraded",
                "attempts": 3,
                "duration_ms": 40,
                "source": "cache, 5 min old",
            }
        ],
        "degraded": ["get_weather"],
        "usage": dict(zip(TOKENS, (1, 2, 3, 4), strict=True)),
        "cost_usd": 0.5,
        "attempts": {"model": 2},
        "duration_ms": 12,
        "error": None,
    }
    assert list(reported()) == KEYS


def test_what_is_unknown_is_null_and_what_is_nothing_is_0() -> None:
    unknown = reported(usage=Usage(None, 5, None, 0), cost_usd=None, model=None)
    assert unknown["usage"] == dict(zip(TOKENS, (None, 5, None, 0), strict=True))
    assert (unknown["cost_usd"], unknown["model"]) == (None, None)
    assert reported(cost_usd=0.0)["cost_usd"] == 0


def test_an_error_says_its_kind_its_type_what_happened_and_what_now() -> None:
    error = AgentError("the key was refused (401)", reason="authentication", what_now="Check the API key.")
    assert reported(status="failed", text="", error=error)["error"] == {
        "kind": "fatal",
        "type": "AuthenticationError",
        "message": "the key was refused (401)",
        "what_now": "Check the API key.",
    }


def test_a_run_that_never_reached_a_model_has_the_same_shape() -> None:
    failed = json.loads(
        cli.json_line(cli.failure_json(ConfigurationError("MAX_TOKENS is 'x'", what_now="Correct it.")))
    )
    assert list(failed) == KEYS
    assert failed["usage"] == dict.fromkeys(TOKENS)
    assert failed["error"]["type"] == "ConfigurationError"
    assert (failed["status"], failed["attempts"], failed["cost_usd"]) == ("failed", {"model": 0}, None)


def test_no_secret_stands_anywhere_in_a_report() -> None:
    register_secret("hush-hush-1")
    call = CallResult(
        ToolUse("c", "save_note", {"hush-hush-1": ["hush-hush-1"]}), "ok", "hush-hush-1", source="hush-hush-1"
    )
    error = AgentError("hush-hush-1", what_now="not hush-hush-1")
    line = json.dumps(reported(text="it is hush-hush-1", tool_calls=(call,), error=error))
    assert "hush-hush" not in line
    assert line.count(MASK) == 7


def test_control_characters_in_an_answer_become_visible() -> None:
    assert reported(text="a\x1b[2Jb\r\n\u202ec")["text"] == "a␛[2Jb\n\ufffdc"


@given(st.text(), st.text(), st.dictionaries(st.text(), st.text() | st.integers() | st.none(), max_size=3))
def test_any_text_gives_one_line_of_json(text: str, output: str, given_input: dict[str, Any]) -> None:
    call = CallResult(ToolUse("c", "n", given_input), "ok", output)
    assert reported(text=text, tool_calls=(call,))["status"] == "ok"


def test_what_is_not_json_never_gets_out() -> None:
    with pytest.raises(ValueError, match="JSON"):
        cli.json_line({"cost_usd": math.nan})


def test_an_error_for_a_person_is_one_masked_line() -> None:
    register_secret("hush-hush-2")
    line = cli.error_line(AgentError("no\x1b hush-hush-2", what_now="Do that."))
    assert line == f"no␛ {MASK}. Do that."


# --- the end ---------------------------------------------------------------------------------------------


def ended(end: Any) -> int:
    with pytest.raises(SystemExit) as caught:
        end()
    code = caught.value.code
    assert isinstance(code, int)
    return code


def test_a_failure_is_told_on_stderr_or_as_one_object_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(lambda: cli.fail(UsageError("no such option", what_now="See --help."), as_json=False)) == 2
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "no such option. See --help.\n")
    assert ended(lambda: cli.fail(AgentError("broken"), as_json=True)) == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["error"]["message"] == "broken"
    assert (told.out.count("\n"), told.err) == (1, "")


def test_without_stderr_nothing_slips_onto_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert ended(lambda: cli.fail(UsageError("x"), as_json=False)) == 2
    assert capsys.readouterr().out == ""


# --- the programs themselves -----------------------------------------------------------------------------

PROGRAMS = ["agent.py", "agent_async.py"]


def run(program: str, *argv: str, cwd: Path, **more: Any) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": "", **more.pop("env", {})}
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, str(ROOT / program), *argv]
    return subprocess.run(command, cwd=cwd, env=environment, timeout=60, check=False, **{**streams, **more})


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_usage_error_is_exit_2_one_line_for_people_one_object_for_programs(program: str, tmp_path: Path) -> None:
    plain = run(program, "--nope", cwd=tmp_path)
    assert (plain.returncode, plain.stdout, plain.stderr.count(b"\n")) == (2, b"", 1)
    assert b"--nope" in plain.stderr
    as_json = run(program, "--json", "--nope", cwd=tmp_path)
    assert (as_json.returncode, as_json.stderr) == (2, b"")
    found = json.loads(as_json.stdout)
    assert (list(found), found["status"], found["error"]["type"]) == (KEYS, "failed", "ConfigurationError")


def test_a_bad_setting_is_exit_2_and_a_secret_of_the_same_run_is_not_shown(tmp_path: Path) -> None:
    environment = {"ANTHROPIC_API_KEY": "my key-12345", "MAX_TOKENS": "x"}
    done = run("agent_async.py", "--json", "q", cwd=tmp_path, env=environment)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["message"].startswith("ANTHROPIC_API_KEY is (hidden)")
    assert b"12345" not in done.stdout + done.stderr


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["--json", "--nope"]])
def test_a_reader_that_went_away_is_a_quiet_141(argv: list[str], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run("agent_async.py", *argv, cwd=tmp_path, stdout=writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_an_answer_is_the_only_thing_on_stdout(tmp_path: Path) -> None:
    done = run("agent_async.py", "--offline", "--json", cwd=tmp_path, stdin=None, input=b"What is 15 * 23?")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert list(found) == KEYS
    assert "345" in found["text"]
    assert [call["status"] for call in found["tool_calls"]] == ["ok"]
