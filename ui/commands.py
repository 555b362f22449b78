"""What one can say to the program itself: a line that begins with a slash.  (floor 6)

Each command is a plain function of the agent and the rest of the line; it changes the agent or
tells about it, and gives back what to print. `COMMANDS` is the whole list: help, completion and
"did you mean" read it. Nothing here asks a model or waits for the network or for a file that may
hang: that is `Work` (`command.py`), handed to the chat's loop. What a command needs
beyond this file is imported by the command, since the names alone are needed before the first
prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from errors import AgentError, ConfigurationError
from safe_text import clean, mask, one_line
from ui.command import Command, CommandResult, Situation, counted
from ui.letter_commands import LETTER_COMMANDS
from ui.session_commands import SESSION_COMMANDS

if TYPE_CHECKING:
    from circuit_breaker import BreakerSnapshot
    from oversight.approvals import ApproveMode
    from wiring import Agent

NOTES_SHOWN = 20
NOTE_BYTES_READ = 64 * 1024
"""Of one note, for its title or first line."""

MODES: tuple[ApproveMode, ...] = ("ask", "auto", "never")


def is_command(line: str) -> bool:
    """Whether a line is meant for the program. A blank before the slash makes it a question."""
    return line.startswith("/")


def run_command(line: str, situation: Situation) -> CommandResult:
    """Do what the line says. Never raises: what is wrong is in the text."""
    name, *rest = line.split(None, 1)
    argument = rest[0] if rest else ""
    command = COMMANDS.get(name.lower())
    if command is None:
        return CommandResult(_unknown(name))
    return settled(lambda: command.run(situation, argument.strip()))


def settled(call: Callable[[], CommandResult]) -> CommandResult:
    """What a command, or the end of its work, comes to, fit to be shown. Never raises."""
    try:
        result = call()
    except AgentError as error:
        result = CommandResult("\n".join(filter(None, [error.message, error.what_now])))
    except Exception as error:  # the last boundary: a mistake of ours must not end the chat
        result = CommandResult(f"✗ a mistake in this program: {type(error).__name__}: {one_line(str(error))}")
    return replace(result, text=clean(mask(result.text)))


def _unknown(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name.lower(), list(COMMANDS), 1)
    guess = f" Did you mean {close[0]}?" if close else " /help lists all commands."
    return f"{one_line(name, 40)} is no command.{guess} (A question that begins with / needs a blank before it.)"


# --- about the agent -------------------------------------------------------------------------------------


def _help(situation: Situation, argument: str) -> CommandResult:
    rows = [(command.usage, command.what) for command in COMMANDS.values()]
    keys = [
        ("Enter", "ask"),
        ("Alt-Enter", "a new line (also Ctrl-J)"),
        ("Ctrl-C", "stop the answer, or clear the line; twice: leave"),
        ("Ctrl-D", "leave"),
    ]
    return CommandResult("\n".join([*_columns(rows), "", *_columns(keys)]))


def _status(situation: Situation, argument: str) -> CommandResult:
    agent = situation.agent
    settings = agent.settings
    rows = [
        ("model", _chain(agent)),
        ("session", f"{agent.session_id}, {counted(agent.totals.questions, 'question')}"),
        ("approvals", agent.approve),
        ("faults", ", ".join(str(spec) for spec in agent.plan.specs) or "none"),
        ("notes", str(settings.notes_dir)),
        ("state", str(settings.state_dir)),
        ("times", f"question {settings.total_timeout_s:g} s, tool {settings.tool_timeout_s:g} s, "
                  f"silence of a model {settings.llm_timeout_s:g} s"),
    ]  # fmt: skip
    circuits = [(one.name, _standing(one)) for one in agent.guards.snapshots()]
    told = ["circuits:", *(f"  {line}" for line in _columns(circuits))] if circuits else ["circuits: none used yet"]
    return CommandResult("\n".join([*_columns(rows), *told]))


def _standing(circuit: BreakerSnapshot) -> str:
    words = [circuit.state.replace("_", "-")]
    if circuit.state == "closed" and circuit.failures_in_a_row:
        words.append(f"{counted(circuit.failures_in_a_row, 'failure')} in a row")
    if circuit.state != "closed" and circuit.retry_after_s:
        words.append("opened by hand" if circuit.manual else f"next try in {circuit.retry_after_s:.0f} s")
    return ", ".join(words)


def _tools(situation: Situation, argument: str) -> CommandResult:
    rows = []
    for tool in situation.agent.toolbox:
        kind = "critical" if tool.critical else "optional"
        arguments = ", ".join(tool.input_schema.get("properties", {}))
        first = tool.description.split(". ")[0].rstrip(".")
        rows.append((f"{tool.name}({arguments})", f"{kind}{', writes' if tool.writes else ''}: {first}"))
    return CommandResult("\n".join(_columns(rows)))


def _model(situation: Situation, argument: str) -> CommandResult:
    said = _chain(situation.agent)
    if argument:
        said += "\nThe chain is chosen at the start: --model CHAIN, or MODEL_CHAIN."
    return CommandResult(said)


def _chain(agent: Agent) -> str:
    names = " → ".join(link.name for link in agent.links)
    return f"{names} (no real model is asked)" if agent.offline else names


def _cost(situation: Situation, argument: str) -> CommandResult:
    totals = situation.agent.totals
    usage = totals.usage
    cost = "unknown" if totals.cost_usd is None else f"${totals.cost_usd:.4f}"
    rows = [
        ("questions", str(totals.questions)),
        ("tokens in", f"{_number(usage.input_tokens)} (read from cache {_number(usage.cache_read_tokens)}, "
                      f"written to it {_number(usage.cache_write_tokens)})"),
        ("tokens out", _number(usage.output_tokens)),
        ("cost", cost),
    ]  # fmt: skip
    return CommandResult("\n".join(_columns(rows)))


def _trace(situation: Situation, argument: str) -> CommandResult:
    from telemetry.trace_view import draw

    agent = situation.agent
    wanted = argument or agent.last_trace_id
    if not wanted:
        return CommandResult("There is no trace yet: nothing was asked.")
    trace = agent.traces.get(wanted)
    if trace is None:
        return CommandResult(f"There is no trace {one_line(wanted, 60)}.")
    return CommandResult(draw(trace, situation.unicode))


def _notes(situation: Situation, argument: str) -> CommandResult:
    from disk import Disk
    from faults import FaultPlan
    from toolbox.note_file import SUFFIX, decode, short_name

    disk, folder = Disk(FaultPlan()), situation.agent.settings.notes_dir
    try:
        files = disk.newest(folder, SUFFIX)
    except OSError as error:
        raise AgentError(f"{folder}: {error.strerror or error}", reason="disk") from None
    rows = []
    for file in files[:NOTES_SHOWN]:
        try:
            note = decode(disk.read(file.path, NOTE_BYTES_READ))
        except OSError as error:
            rows.append((short_name(file.path.name), f"cannot be read: {one_line(error.strerror or str(error))}"))
            continue
        rows.append((short_name(file.path.name), one_line(note.title or note.content, 80) or "(empty)"))
    more = [f"… and {len(files) - NOTES_SHOWN:,} older ones"] if len(files) > NOTES_SHOWN else []
    said = [f"{counted(len(files), 'note')} in {folder}", *_columns(rows), *more]
    return CommandResult("\n".join(said))


# --- what changes something ------------------------------------------------------------------------------


def _fault(situation: Situation, argument: str) -> CommandResult:
    from faults import parse_fault

    plan, words = situation.agent.plan, argument.split()
    if not words:
        return _faults(situation, "")
    if words[0] != "off":
        specs = [parse_fault(word, situation.agent.known_fault_targets) for word in words]
        for spec in specs:
            plan.add(spec)
        return _faults(situation, "")
    if len(words) == 1:
        plan.clear()
        return CommandResult("No faults are on any more.")
    number = int(words[1]) if words[1].isdecimal() else 0
    if len(words) > 2 or not 1 <= number <= len(plan.specs):
        raise ConfigurationError(f"/fault off {one_line(words[1], 20)}: /faults shows the numbers there are")
    plan.replace([spec for place, spec in enumerate(plan.specs, 1) if place != number])
    return _faults(situation, "")


def _faults(situation: Situation, argument: str) -> CommandResult:
    from faults import GRAMMAR

    specs = situation.agent.plan.specs
    if not specs:
        return CommandResult(f"No faults are on. /fault {GRAMMAR} adds one, as in /fault model:overloaded*2")
    lines = [f"  {place}. {one_line(str(spec), 120)}" for place, spec in enumerate(specs, 1)]
    return CommandResult("\n".join(["Faults are on:", *lines, "/fault off ends them all, /fault off N one of them."]))


def _approve(situation: Situation, argument: str) -> CommandResult:
    agent, mode = situation.agent, argument.lower()
    if mode:
        found = next((one for one in MODES if one == mode), None)
        if found is None:
            raise ConfigurationError(f"/approve {one_line(argument, 20)}: allowed is {', '.join(MODES)}")
        agent.approve = found
    meaning = {
        "ask": "you are asked before a write that text from outside may have asked for",
        "auto": "every write is allowed, also one that text from outside asked for",
        "never": "no write is allowed after text from outside was read",
    }
    return CommandResult(f"approvals: {agent.approve}: {meaning[agent.approve]}")


def _retry(situation: Situation, argument: str) -> CommandResult:
    if situation.last_question is None:
        return CommandResult("There is nothing to ask again yet.")
    return CommandResult(f"asking again: {one_line(situation.last_question, 120)}", situation.last_question)


def _quit(situation: Situation, argument: str) -> CommandResult:
    return CommandResult(leaves=True)


COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command("/help", "/help", "this list", _help),
        Command("/status", "/status", "model, circuits, faults, session", _status),
        Command("/tools", "/tools", "what the model can use", _tools),
        Command("/model", "/model", "which models are asked, in which order", _model),
        Command("/cost", "/cost", "tokens and cost of this session", _cost),
        Command("/trace", "/trace [ID]", "what happened in the last question, or in another one", _trace),
        Command("/fault", "/fault SPEC | off [N]", "inject a fault, or end it", _fault),
        Command("/faults", "/faults", "which faults are on", _faults),
        Command("/approve", "/approve [ask|auto|never]", "who approves a write that outside text may want", _approve),
        Command("/notes", "/notes", "the notes saved so far", _notes),
        *SESSION_COMMANDS,
        *LETTER_COMMANDS,
        Command("/retry", "/retry", "ask the last question again", _retry),
        Command("/quit", "/quit", "leave", _quit),
    )
}


# --- words -----------------------------------------------------------------------------------------------


def _columns(rows: Iterable[tuple[str, str]]) -> list[str]:
    rows = list(rows)
    width = max((len(left) for left, _ in rows), default=0)
    return [f"{left:<{min(width, 30)}}  {right}" for left, right in rows]


def _number(count: int | None) -> str:
    return "unknown" if count is None else f"{count:,}"
