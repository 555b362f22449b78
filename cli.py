"""What both programs share on the command line: options, exit codes and the JSON report.  (floor 6)

Options are parsed with typer, but only when there are any: a plain start goes straight to
the prompt. Usage errors end with exit 2; with `--json` in sight also they are one JSON
object on stdout, because scripts read it at every exit.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from errors import AgentError, ConfigurationError
from safe_text import clean, encodable, mask, masked, one_line

if TYPE_CHECKING:
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


def parse(argv: Sequence[str], program: str) -> Options:
    """Parse the command line. Raises UsageError; ends the program itself for --help and --version."""
    return _parsed_by_typer(argv, program) if argv else Options()


def _parsed_by_typer(argv: Sequence[str], program: str) -> Options:
    from typing import Annotated

    import typer

    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    parsed: list[Options] = []

    @app.command(help="Chat with an agent that keeps its promises while everything it depends on fails.")
    def main(
        prompt: Annotated[str | None, typer.Argument(help="One question; without it, chat.")] = None,
        json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of text.")] = False,
        model: Annotated[
            str | None, typer.Option("--model", metavar="CHAIN", help="Models in order: provider:model,provider:model.")
        ] = None,
        offline: Annotated[bool, typer.Option("--offline", help="Use the embedded practice model.")] = False,
        fault: Annotated[
            list[str] | None,
            typer.Option("--fault", metavar="SPEC", help="Inject a fault: TARGET:KIND[=ARG][@RATE][*COUNT][+AFTER]."),
        ] = None,
        seed: Annotated[int | None, typer.Option("--seed", help="Repeat faults, jitter and practice answers.")] = None,
        approve: Annotated[
            str, typer.Option("--approve", metavar="ask|auto|never", help="Who approves a doubtful write.")
        ] = "ask",
        trace: Annotated[str | None, typer.Option("--trace", metavar="ID", help="Print a trace and exit.")] = None,
        verbose: Annotated[bool, typer.Option("--verbose", help="Show every attempt.")] = False,
        version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    ) -> None:
        if version:
            print(f"unflappable {VERSION}")
            raise typer.Exit
        parsed.append(Options(prompt, json, model, offline, tuple(fault or ()), seed, approve, trace, verbose))

    try:
        code = typer.main.get_command(app).main(args=list(argv), prog_name=program, standalone_mode=False)
    except Exception as error:  # typer vendors click's exceptions under a private name; all mean a wrong command line
        words = error.format_message() if hasattr(error, "format_message") else str(error)
        raise UsageError(one_line(words, 300), what_now=f"See {program} --help.") from None
    if not parsed:
        raise SystemExit(code if isinstance(code, int) else OK)
    return _checked(parsed[0])


def _checked(options: Options) -> Options:
    if options.approve not in ("ask", "auto", "never"):
        raise UsageError(f"--approve is {one_line(options.approve, 40)!r}; allowed is ask, auto or never")
    if options.model is not None and options.offline:
        raise UsageError("--offline and --model contradict each other", what_now="Give one of them.")
    if options.model is not None and not options.model.strip():
        raise UsageError("--model is empty", what_now="Give a chain like anthropic:claude-sonnet-5-5.")
    return options


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
