"""What both programs share on the command line: options, exit codes and the JSON report.  (floor 6)

Usage errors end with exit 2; with `--json` in sight also they are one JSON object on stdout,
because scripts read it at every exit. How options are declared is in `ui/options.py`, which
is loaded only when there are any: a plain start goes straight to the prompt.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from errors import AgentError, ConfigurationError
from safe_text import clean, encodable, mask, masked, one_line

if TYPE_CHECKING:
    from config import Settings
    from core.turn import TurnReport

VERSION = "0.1.0"

OK, FAILED, USAGE, NEEDS_HUMAN, CLOSED_STDOUT = 0, 1, 2, 3, 141
EXIT_OF_STATUS = {"ok": OK, "degraded": OK, "failed": FAILED, "needs_human": NEEDS_HUMAN, "cancelled": 130}


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, parsed. `faults` are texts; they are checked where the tools are known."""

    prompt: str | None = None
    json: bool = False
    model: str | None = None
    offline: bool = False
    faults: tuple[str, ...] = ()
    seed: int | None = None
    approve: str = "ask"
    trace: str | None = None
    verbose: bool = False


class UsageError(ConfigurationError):
    """The command line is wrong. Exit 2."""


def question_from(options: Options) -> str | None:
    """The one-shot question: PROMPT, or the text on a stdin that is not a terminal. None means chat.

    Raises UsageError when there is nothing to ask.
    """
    if options.prompt is not None:
        question: str | None = options.prompt
    elif sys.stdin is None or not sys.stdin.isatty():
        question = _stdin_text()
    else:
        question = None
    if question is None:
        if options.json:
            raise UsageError("--json needs a question", what_now="Give it as an argument or on stdin.")
        return None
    if not question.strip():
        raise UsageError("the question is empty", what_now="Give it as an argument or on stdin.")
    return encodable(question)


STDIN_BYTES_MAX = 4 * 1024 * 1024


def _stdin_text() -> str:
    if sys.stdin is None:
        return ""
    try:
        data = sys.stdin.buffer.read(STDIN_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(f"stdin cannot be read: {one_line(str(error))}") from None
    if len(data) > STDIN_BYTES_MAX:
        raise UsageError(f"stdin has more than {STDIN_BYTES_MAX // 1024 // 1024} MiB", what_now="Ask about less.")
    return data.decode("utf-8", "replace")


# --- the report -----------------------------------------------------------------------------------------


def report_json(report: TurnReport, *, session_id: str, trace_id: str, model_attempts: int) -> dict[str, Any]:
    """The object of `--json`, by the contract. Unknown usage and cost are null."""
    usage = report.usage
    return {
        "status": report.status,
        "text": clean(report.text),
        "model": report.model,
        "session_id": session_id,
        "trace_id": trace_id,
        "tool_calls": [
            {
                "id": result.call.id,
                "name": result.call.name,
                "input": dict(result.call.input),
                "output": clean(result.output),
                "status": result.status,
                "attempts": result.attempts,
                "duration_ms": result.duration_ms,
                "source": result.source,
            }
            for result in report.tool_calls
        ],
        "degraded": list(report.degraded),
        "usage": {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cache_read_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "cost_usd": report.cost_usd,
        "attempts": {"model": model_attempts},
        "duration_ms": report.duration_ms,
        "error": error_json(report.error) if report.error else None,
    }


def error_json(error: AgentError) -> dict[str, str]:
    """The `error` part of the report."""
    return {
        "kind": error.kind.value,
        "type": error.type,
        "message": clean(mask(error.message)),
        "what_now": clean(mask(error.what_now)),
    }


def failure_json(error: AgentError, status: str = "failed") -> dict[str, Any]:
    """The report of a run that never reached a model: exit 2, or stopped before it began."""
    return {
        "status": status, "text": "", "model": None, "session_id": None, "trace_id": None, "tool_calls": [],
        "degraded": [], "usage": dict.fromkeys(
            ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
        ),
        "cost_usd": None, "attempts": {"model": 0}, "duration_ms": 0, "error": error_json(error),
    }  # fmt: skip


def print_json(report: dict[str, Any]) -> None:
    """One line of pure ASCII JSON on stdout: no encoding of any terminal can break it."""
    print(json.dumps(masked(report), ensure_ascii=True, allow_nan=False), flush=True)


def error_lines(error: AgentError) -> str:
    """An error for a person: what happened, then what to do now."""
    what_now = f"\n{clean(mask(error.what_now))}" if error.what_now else ""
    return f"{clean(mask(error.message))}{what_now}"


def need_alarms() -> None:
    """Raise ConfigurationError where `agent.py` cannot work: its timeouts are alarms, which Windows lacks."""
    if not hasattr(signal, "SIGALRM"):
        raise ConfigurationError(
            "agent.py needs SIGALRM, which this system does not have",
            what_now="Use agent_async.py: the same agent, on every platform.",
        )


def print_trace(trace_id: str, settings: Settings, *, as_json: bool) -> NoReturn:
    """Print one stored trace as a tree, or as JSON, and end the program.

    Raises ConfigurationError when there is no such trace.
    """
    from stores.traces import TraceStore
    from telemetry.trace_view import draw

    trace = TraceStore(settings.state_dir).get(trace_id)
    if trace is None:
        raise UsageError(
            f"there is no trace {one_line(trace_id, 60)!r} in {one_line(str(settings.state_dir))}",
            what_now="Every answer of --json and every error names its trace_id.",
        )
    if as_json:
        print_json(trace)
    else:
        print(draw(trace), flush=True)
    leave(OK)


def fail(error: AgentError, *, as_json: bool, code: int = USAGE) -> NoReturn:
    """Say it (stderr, or the JSON report on stdout) and end the program."""
    try:
        if as_json:
            print_json(failure_json(error))
        else:
            print(error_lines(error), file=sys.stderr, flush=True)
    except OSError:
        code = CLOSED_STDOUT  # nobody reads any more
    leave(code)


def leave(code: int) -> NoReturn:
    """End the program with this code, quietly also when stdout or stderr were closed by the reader."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            # Python would complain at exit about what it cannot flush: point the stream at nothing.
            _silence(stream)
    raise SystemExit(code)


def _silence(stream: Any) -> None:
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
    except (OSError, ValueError):
        stream.close = None  # already closed below us: there is nothing left that could be flushed
