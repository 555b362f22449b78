"""What must hold after every question and at the end of every run, whatever struck. The letters are promises.

Each finding is one line that begins with the promise it breaks. That a request was valid (A1) is judged while the
model is asked; everything else here, from what the world saw and what the agent said.
"""

from __future__ import annotations

import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

from cli import EXIT_OF_STATUS, error_line, json_line, report_json
from core.resume import CRASHES_MAX
from core.turn import CALLS_MAX, ROUNDS_MAX
from events import (
    ApprovalAnswered,
    AttemptStarted,
    FaultInjected,
    RoundStarted,
    StoreFailed,
    ToolCallEnded,
    TurnEnded,
    TurnStarted,
)
from oversight.approvals import digest_of
from telemetry.trace_view import draw
from tests.simulation.files import File, Folder
from tests.simulation.scripts import SUMS
from tests.simulation.world import KEYS, NOTES, TOTAL_S, Simulation, Told, of
from toolbox.note_file import Note, decode

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")  # all but the newline


def check(sim: Simulation) -> None:
    """Judge the question that has just ended."""
    told = sim.told[-1]
    for judge in (_time, _report, _history, _bounds, _agreement, _truth, _metrics, _leftovers, _secrets):
        sim.problems += [f"{problem} (question {told.asked.number})" for problem in judge(sim, told)]


def check_end(sim: Simulation) -> None:
    """Judge the whole run, then start the program once more."""
    for judge in (_liveness, _effects, _approvals, _replays, _stored, _resumption):
        sim.problems += judge(sim)
    sim.boot()
    sim.problems += [f"C2: {name} survived the next start" for name in sorted(_notes(sim)) if name.startswith(".")]


# --- after a question ------------------------------------------------------------------------------------


def _time(sim: Simulation, told: Told) -> Iterator[str]:
    took_s = told.ended_s - told.began_s
    if told.answer is not None and took_s > TOTAL_S + 0.25:
        yield f"B1: took {took_s:.3f} s of {TOTAL_S:g}"


def _report(sim: Simulation, told: Told) -> Iterator[str]:
    if told.answer is None:
        return
    report = told.answer.report
    if report.status not in EXIT_OF_STATUS:
        yield f"A: the status {report.status!r} is none"
    if (report.error is not None) != (report.status == "failed"):
        yield f"A: {report.status} with the error {report.error}"
    if report.error is not None and report.error.reason == "internal":
        yield f"A: {report.error}"
    if (report.status == "cancelled") and not told.interrupted:
        yield "B2: cancelled, and nobody pressed Ctrl-C"
    if report.status in ("ok", "degraded") and not report.text.strip():
        yield "A3: an answer without words"


def _history(sim: Simulation, told: Told) -> Iterator[str]:
    if told.answer is None or told.before is None:
        return
    report, after = told.answer.report, sim.agent.conversation.messages
    acted = any(call.wrote or call.status == "unknown" for call in report.tool_calls)
    if report.status in ("failed", "cancelled") and not acted and after != told.before:
        yield f"A2: {report.status} without a write, and the history is another one"
    if report.status in ("failed", "cancelled") and acted and len(after) <= len(told.before):
        yield f"A2: {report.status} after a write, and the history does not know of it"
    if report.status in ("ok", "degraded", "needs_human") and after[-1].role != "assistant":
        yield "A2: the answer is not in the history"


def _bounds(sim: Simulation, told: Told) -> Iterator[str]:
    rounds = max((event.number for event in of(told.events, RoundStarted)), default=0)
    if rounds > ROUNDS_MAX:
        yield f"A6: {rounds} rounds"
    if told.answer is not None:
        ran = sum(call.attempts > 0 for call in told.answer.report.tool_calls)
        if ran > CALLS_MAX:
            yield f"A6: {ran} calls"


def _agreement(sim: Simulation, told: Told) -> Iterator[str]:
    """C6: the report, what the listeners heard, and the trace say the same."""
    if told.answer is None:
        return
    report = told.answer.report
    said = [(result.call.id, result.status) for result in report.tool_calls]
    heard = {event.result.call.id: event.result.status for event in of(told.events, ToolCallEnded)}
    if any(heard.get(call_id) != status for call_id, status in said):
        yield f"C6: reported {said}, told {heard}"
    ends = [event.status for event in of(told.events, TurnEnded)]
    if ends[-1:] != [report.status] or len(ends) > 1 + told.deaths:
        yield f"C6: reported {report.status}, told {ends}"
    trace = sim.traces.traces.get(told.answer.trace_id)
    if trace is None:
        if of(told.events, TurnStarted):  # else it was stopped before it began
            yield "C6: no trace was kept"
    elif trace["status"] != report.status or trace["model_attempts"] != told.answer.model_attempts:
        yield f"C6: the trace says {trace['status']} after {trace['model_attempts']} attempts"


def _truth(sim: Simulation, told: Told) -> Iterator[str]:
    """E5: no lie of a tool passes for an answer."""
    for event in of(told.events, ToolCallEnded):
        result = event.result
        given, said = result.call.input, result.output
        if result.status != "ok":
            continue
        if result.call.name == "calculator" and given.get("expression") in SUMS:
            right = SUMS[given["expression"]]
            if right not in said:
                yield f"E5: {given['expression']} is {said!r}"
        elif result.call.name == "get_weather" and "21.5" not in said and "knows no place" not in said:
            yield f"E5: the weather was made up: {said[:200]!r}"


def _metrics(sim: Simulation, told: Told) -> Iterator[str]:
    """I5: counters tell what happened. A process that was killed may have lost its last round."""
    if told.deaths:
        return
    sums: dict[str, float] = defaultdict(float)
    for (name, labels), amount in sim.traces.counts.items():
        key = name.removeprefix("unflappable_").removesuffix("_total")
        sums[key] += amount
        if key == "attempts_started" and json.loads(labels)["dependency"].startswith("model."):
            sums["requests"] += amount
    slack = sim.interrupts
    for name, expected, tolerated in (
        ("questions_started", sim.heard[TurnStarted], 0),
        ("questions", sim.heard[TurnEnded], sim.stillborn),
        ("attempts", sums["attempts_started"], 0),
        ("faults_injected", sim.heard[FaultInjected], 0),
        ("faults_injected", sim.struck, slack),
        ("requests", sim.models.requests, slack),
    ):
        if not 0 <= abs(expected - sums[name]) <= tolerated:
            yield f"I5: {name} is {sums[name]:g}, it was {expected}"


def _leftovers(sim: Simulation, told: Told) -> Iterator[str]:
    if sim.os.handles:
        yield f"leftover: {sim.os.handles} open files"
    for name, guard in sorted(sim.agent.guards._guards.items()):
        if guard.bulkhead.taken:
            yield f"leftover: {guard.bulkhead.taken} places of {name} are taken"
        if guard.breaker.snapshot().probes:
            yield f"E2: a probe of {name} never gave its place back"
    if threading.active_count() > 1 + sim.threads_before:
        yield f"leftover: {threading.active_count()} threads"


def _secrets(sim: Simulation, told: Told) -> Iterator[str]:
    if told.answer is None:
        return
    answer, trace = told.answer, sim.traces.traces.get(told.answer.trace_id, {})
    ids = {"session_id": answer.session_id, "trace_id": answer.trace_id}
    shown = {
        "the report": json_line(report_json(answer.report, **ids, model_attempts=answer.model_attempts)),
        "the error": error_line(answer.report.error) if answer.report.error else "",
        "the trace": json.dumps(trace),
    }
    if sim.is_watched:
        shown |= {
            "the log": "\n".join(sim.log.take()),
            "the drawn trace": draw(dict(trace)) if trace else "",
            "the screen": sim.screen.take(),
        }
    for name, text in shown.items():
        if any(key in text for key in KEYS):
            yield f"F1: a secret is in {name}"
        if found := _CONTROL.search(text):
            yield f"F2: {found[0]!r} is in {name}"


# --- at the end ------------------------------------------------------------------------------------------


def _liveness(sim: Simulation) -> Iterator[str]:
    """E7: faults have stopped and the recovery time has passed; E6: the first model is used again."""
    told = sim.told[-1]
    report = told.answer.report if told.answer else None
    if report is None or report.status != "ok":
        yield f"E7: after the faults the answer is {report and (report.status, str(report.error), report.degraded)}"
    elif report.model != sim.agent.links[0].name:
        yield f"E6: {report.model} answered after the first model had healed"
    elif told.ended_s - told.began_s > TOTAL_S / 5:
        yield f"E7: after the faults the answer took {told.ended_s - told.began_s:.1f} s"


def _notes(sim: Simulation) -> dict[str, bytes]:
    folder = sim.drive.find(NOTES)
    names = folder.names if isinstance(folder, Folder) else {}
    return {name: node.data for name, node in names.items() if isinstance(node, File)}


def _effects(sim: Simulation) -> Iterator[str]:
    """C1, C2: every acknowledged note is durable and whole; what was not done is not there; nothing else is."""
    asked, done, open_ones = _ledger(sim)
    found = _notes(sim)
    for name, note in asked.items():
        data = found.get(name)
        durable = sim.drive.durable(NOTES / name)
        if name in done and (data is None or not note.is_in(data)):
            yield f"C1: {note.content!r} was acknowledged and is {'damaged' if data is not None else 'not there'}"
        elif name in done and not sim.lost_syncs and (durable is None or not note.is_in(durable)):
            yield f"C2: {note.content!r} was acknowledged and would not survive a power cut"
        elif name not in done | open_ones and data is not None:
            yield f"C1: {note.content!r} is there, and nobody was told that it was saved"
    for name in found:
        if name not in asked and not name.startswith("."):
            yield f"C1: {name} is there, and nobody asked for it"


def _ledger(sim: Simulation) -> tuple[dict[str, Note], set[str], set[str]]:
    """The notes that were asked for by file name; those acknowledged; those nobody promised anything about."""
    asked: dict[str, Note] = {}
    done: set[str] = set()
    open_ones: set[str] = set()
    for told in sim.told:
        for one in told.asked.script:
            for tool, given in one.calls:
                if tool == "save_note":
                    note = Note(given["content"], given.get("title"))
                    asked[note.file_name] = note
                    if told.answer is None:
                        open_ones.add(note.file_name)
        for event in of(told.events, ToolCallEnded):
            given = event.result.call.input
            if event.result.call.name != "save_note" or not given.get("content"):
                continue
            note = Note(given["content"], given.get("title"))
            asked.setdefault(note.file_name, note)
            if event.result.status == "ok":
                done.add(note.file_name)
            elif event.result.status == "unknown":
                open_ones.add(note.file_name)
    return asked, done, open_ones


def _approvals(sim: Simulation) -> Iterator[str]:
    """G1: what was written while text by strangers was about, a person had approved."""
    if sim.plan.approve == "auto":
        return
    granted = {
        event.digest for told in sim.told for event in of(told.events, ApprovalAnswered) if event.granted
    }  # fmt: skip
    for name, data in _notes(sim).items():
        note = decode(data)
        if note.untrusted and not name.startswith("."):
            forms: list[dict[str, str | None]] = [
                {"content": note.content, "title": note.title},
                {"content": note.content},
            ]
            if not granted & {digest_of("save_note", form) for form in forms}:
                yield f"G1: {note.content!r} was saved after text by strangers, and nobody approved it"


def _replays(sim: Simulation) -> Iterator[str]:
    """D1: a call whose end was told before a crash is not run again after it, unless nothing could be recorded."""
    for told in sim.told:
        if of(told.events, StoreFailed):
            continue
        over: set[str] = set()
        life, ended = 0, set[str]()
        for stamped in told.events:
            if isinstance(stamped.event, TurnStarted):
                life, over, ended = life + 1, over | ended, set()
            elif isinstance(stamped.event, ToolCallEnded) and stamped.event.result.status != "skipped":
                ended.add(stamped.event.result.call.id)
            elif isinstance(stamped.event, AttemptStarted) and stamped.scope.get("call") in over:
                yield f"D1: {stamped.scope.get('call')} had ended before the crash and ran again"


def _resumption(sim: Simulation) -> Iterator[str]:
    """D1: with nothing but deaths in it, a run comes to the same answers and effects as without them."""
    strikes = [strike for told in sim.told for strike in told.asked.strikes]
    if not any(told.deaths for told in sim.told) or not all(strike.ends_the_process for strike in strikes):
        return
    if any(told.answer is None or told.deaths >= CRASHES_MAX for told in sim.told):
        return  # cut off before anything was kept, or too often
    undisturbed = tuple(replace(asked, strikes=()) for asked in sim.plan.questions)
    twin = Simulation(replace(sim.plan, questions=undisturbed))
    twin.run(lambda sim: None, lambda sim: None)
    for told, other in zip(sim.told, twin.told, strict=True):
        if _outcome(told) != _outcome(other):
            yield f"D1: resumed to {_outcome(told)}, undisturbed it is {_outcome(other)} (question {told.asked.number})"
    if _notes(sim).keys() != _notes(twin).keys():
        yield f"D1: resumed to {len(_notes(sim))} notes, undisturbed there are {len(_notes(twin))}"


def _outcome(told: Told) -> tuple[object, ...]:
    assert told.answer is not None
    report = told.answer.report
    calls = [(call.call.id, call.call.name, call.status) for call in report.tool_calls]
    return report.status, report.text, calls


def _stored(sim: Simulation) -> Iterator[str]:
    for text in sim.database.texts():
        if any(key in text for key in KEYS):
            yield "F1: a secret is in the database"
            return
    if any(key.encode() in data for data in _notes(sim).values() for key in KEYS):
        yield "F1: a secret is in a note"
