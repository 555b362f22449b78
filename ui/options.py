"""The options of both programs, declared for typer.  (floor 6)

Loaded only when there is something on the command line: typer and what it needs cost 0.2 s.
What the options mean is in `--help` and in the README.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

import typer
from typer.exceptions import TyperException

from cli import OK, Options, UsageError, conclude
from safe_text import one_line
from version import VERSION

T = TypeVar("T")


def print_version(wanted: bool) -> None:
    """What `--version` does."""
    if wanted:
        print(f"unflappable {VERSION}")
        raise typer.Exit


def _options(
    prompt: Annotated[str | None, typer.Argument(help="One question; without it, chat.", show_default=False)] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of text.")] = False,
    model: Annotated[
        str | None, typer.Option(metavar="CHAIN", help="Models in order: provider:model,provider:model.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use the embedded practice model.")] = False,
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="SPEC", help="Inject a fault: TARGET:KIND[=ARGUMENT][@RATE][*COUNT][+AFTER]. Repeatable."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Repeat faults, jitter and practice answers exactly.")
    ] = None,
    approve: Annotated[
        str, typer.Option(metavar="ask|auto|never", help="Who approves a write that outside text may have asked for.")
    ] = "ask",
    trace: Annotated[str | None, typer.Option(metavar="ID", help="Print a trace and exit.")] = None,
    continue_: Annotated[
        bool, typer.Option("--continue", "-c", help="Go on with the session used last; without PROMPT, chat.")
    ] = False,
    resume: Annotated[
        str | None, typer.Option(metavar="ID", help="Go on with this session; the beginning of its id is enough.")
    ] = None,
    task_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Asked again with this id, the stored answer is given.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show every attempt.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=print_version, is_eager=True)
    ] = False,
) -> Options:
    """Chat with an agent that keeps its promises while everything it depends on fails."""
    return Options(
        prompt, json, model, offline, tuple(fault or ()), seed, approve, trace, verbose, continue_, resume, task_id
    )


def parse(argv: Sequence[str], program: str) -> Options:
    """Parse the command line of an agent. Raises UsageError; ends the program itself after --help and --version."""
    return _checked(parsed(_options, Options, argv, program))


def parsed(declared: Callable[..., T], kind: type[T], argv: Sequence[str], program: str) -> T:
    """Parse a command line.

    Args:
        declared: a function whose parameters are the options, for typer; makes the `kind` out of them.
        argv: the command line without the program.
        program: its name, for usage errors.

    Raises UsageError; ends the program itself after --help and --version.
    """
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(declared)
    said = io.StringIO()  # typer has its own opinion on a stdout that cannot be written
    try:
        with contextlib.redirect_stdout(said):
            result = typer.main.get_command(app).main(args=list(argv), prog_name=program, standalone_mode=False)
    except TyperException as error:
        words = error.format_message() if hasattr(error, "format_message") else str(error)
        raise UsageError(one_line(words, 300), what_now=f"See {program} --help.") from None
    if not isinstance(result, kind):
        conclude(said.getvalue().rstrip(), OK)
    return result


def _checked(options: Options) -> Options:
    if options.approve not in ("ask", "auto", "never"):
        raise UsageError(f"--approve is {one_line(options.approve, 40)!r}; allowed is ask, auto or never")
    if options.model is not None and options.offline:
        raise UsageError("--offline and --model contradict each other", what_now="Give one of them.")
    if options.model is not None and not options.model.strip():
        raise UsageError("--model is empty", what_now="Give a chain like anthropic:claude-sonnet-5-5.")
    _check_session(options)
    return options


def _check_session(options: Options) -> None:
    if options.resume is not None and not options.resume.strip():
        raise UsageError("--resume is empty", what_now="Give the id of a session: /sessions in the chat lists them.")
    if options.task_id is not None and not options.task_id.strip():
        raise UsageError("--task-id is empty", what_now="Give any id of yours.")
    if options.continues and options.resume is not None:
        raise UsageError("--continue and --resume contradict each other", what_now="Give one of them.")
    if options.task_id is not None and options.reopens:
        raise UsageError(
            "--task-id has a session of its own: it does not go with --continue or --resume",
            what_now="Leave out one of them.",
        )
