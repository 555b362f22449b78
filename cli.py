"""What both programs share on the command line: options, exit codes and the JSON report.  (floor 6)

Usage errors end with exit 2; with `--json` in sight also they are one JSON object on stdout,
because scripts read it at every exit. How options are declared is in `ui/options.py`, which
is loaded only when there are any: a plain start goes straight to the prompt.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from early_end import NO_ANSWER, heed_signals
from errors import AgentError, ConfigurationError
from safe_text import clean, encodable, mask, masked, one_line

if TYPE_CHECKING:
    from config import Settings
    from core.report import TurnReport

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
    continues: bool = False
    resume: str | None = None
    task_id: str | None = None

    @property
    def reopens(self) -> bool:
        """Whether an earlier session is wanted."""
        return self.continues or self.resume is not None


class UsageError(ConfigurationError):
    """The command line is wrong. Exit 2."""


def question_from(options: Options) -> str | None:
    """The one-shot question: PROMPT, or the text on a stdin that is not a terminal. None means chat.

    "" means to finish what was cut off in the session that is reopened. Raises UsageError when there is
    nothing to ask.
    """
    if options.prompt is not None:
        question: str | None = _typed(options.prompt)
    elif sys.stdin is None or not sys.stdin.isatty():
        question = _stdin_text()
    else:
        question = None
    if question is None and not options.json:
        if options.task_id is not None:
            raise UsageError("--task-id needs a question", what_now="Give it as an argument or on stdin.")
        return None
    if options.prompt is None and options.reopens and not (question or "").strip():
        return ""
    if question is None:
        raise UsageError("--json needs a question", what_now="Give it as an argument or on stdin.")
    if not question.strip():
        raise UsageError("the question is empty", what_now="Give it as an argument or on stdin.")
    return encodable(question)


def _typed(text: str) -> str:
    """An argument as it was typed: with LANG=C Python takes UTF-8 for single bytes it does not know."""
    try:
        text.encode()
    except UnicodeEncodeError:
        with contextlib.suppress(UnicodeEncodeError):  # what never was bytes is left to `encodable`
            return os.fsencode(text).decode("utf-8", "replace")
    return text


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


def failure_json(error: AgentError) -> dict[str, Any]:
    """The report of a run that never reached a model."""
    return {**json.loads(NO_ANSWER), "status": "failed", "error": error_json(error)}


def json_line(report: dict[str, Any]) -> str:
    """One line of pure ASCII JSON: no encoding of any terminal can break it."""
    return json.dumps(masked(report), ensure_ascii=True, allow_nan=False)


def error_line(error: AgentError) -> str:
    """An error for a person in one line: what happened, then what to do now."""
    message = clean(mask(error.message))
    return f"{message.rstrip('.')}. {clean(mask(error.what_now))}" if error.what_now else message


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
    conclude(json_line(trace) if as_json else draw(trace, unicode=_draws_lines()), OK)


def _draws_lines() -> bool:
    try:
        "├─│└…".encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


# --- the end --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def last_boundary(*, as_json: bool) -> Iterator[None]:
    """End the program in one line, whatever is raised inside: no traceback reaches a person."""
    try:
        yield
    except AgentError as error:
        fail(error, as_json=as_json)
    except OSError as error:
        refused = AgentError(f"the system refused: {one_line(error.strerror or str(error))}", reason="disk")
        fail(refused, as_json=as_json)
    except Exception as error:  # a mistake of ours, or no memory left
        _log_mistake(error)
        words = one_line(f"a mistake in this program: {type(error).__name__}: {error}")
        fail(AgentError(words, what_now="Once more with --verbose tells where."), as_json=as_json)


def _log_mistake(error: Exception) -> None:
    logging = sys.modules.get("logging")
    if logging is not None and logging.getLogger().handlers:  # without any it would print a traceback by itself
        logging.getLogger("unflappable").error("internal error", exc_info=error)


def fail(error: AgentError, *, as_json: bool, code: int | None = None) -> NoReturn:
    """Say it in one line (on stderr, or as the report on stdout) and end the program.

    Args:
        code: the exit code; None for 2 where options or settings are wrong, else 1.
    """
    if code is None:
        code = USAGE if error.reason == "configuration" else FAILED
    if as_json:
        conclude(json_line(failure_json(error)), code)
    _tell(error_line(error))
    leave(code)


def conclude(text: str, code: int) -> NoReturn:
    """Print the last words of the program on stdout, then end it with `code`."""
    try:
        if sys.stdout is None:
            raise BrokenPipeError
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        print(text.encode(encoding, "replace").decode(encoding), flush=True)
    except (OSError, ValueError) as error:
        lose(error)
    leave(code)


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def lose(error: BaseException | None) -> NoReturn:
    """End the program whose stdout cannot be written: quietly when nobody reads it, else the disk is full."""
    if isinstance(error, OSError) and error.errno in _FULL:
        _tell(f"the answer could not be written: {error.strerror}")
        leave(FAILED)
    leave(CLOSED_STDOUT)


def _tell(line: str) -> None:
    if sys.stderr is not None:  # print would take stdout instead
        with contextlib.suppress(OSError, ValueError):  # nobody reads it: the exit code still tells
            print(line, file=sys.stderr, flush=True)


def leave(code: int) -> NoReturn:
    """End the program with this code, quietly also when stdout or stderr were closed by the reader."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            # Python would complain at exit about what it cannot flush: point the stream at nothing.
            _silence(stream)
    heed_signals(signal.SIG_IGN)  # all is said: a signal now would only spoil the exit code
    gc.freeze()  # at its exit Python would search the whole SDK for garbage: 0.3 s
    raise SystemExit(code)


def _silence(stream: Any) -> None:
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
    except (OSError, ValueError):
        stream.close = None  # already closed below us: there is nothing left that could be flushed
