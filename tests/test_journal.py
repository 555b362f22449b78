"""One row a call: what it says of a call before a crash decides what becomes of it after."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from core.journal import Conflict, Intent, Recorded, RecordIntents, RecordOutcome, intending, recall, reconciling
from errors import AgentError
from flow import Flow
from messages import CallResult, ToolUse
from stores import journal
from tests.support import Doors
from tools import CallContext, Prepared, Tool, Toolbox, ToolOutput, prepare

CALL = ToolUse("c1", "note", {"x": "milk"})
DONE = CallResult(CALL, "ok", "Saved.", 1, 12, source="disk", untrusted=True, wrote=True, notice="n")


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as made:
        made.execute(journal.SCHEMA)
        yield made


def prepared(*calls: ToolUse, look: Callable[[], bool] | None = None, said: bool = False) -> list[Prepared]:
    def run(context: CallContext, given: Mapping[str, Any]) -> Flow[ToolOutput]:
        return ToolOutput("ran")
        yield

    def looking(given: Mapping[str, Any]) -> Flow[bool]:
        return look() if look else False
        yield

    schema = {"type": "object"}
    note = Tool(
        "note", "d", schema, run, True, True, looking if look else None, (lambda given: "Saved.") if said else None
    )
    return prepare(calls, Toolbox([note, Tool("sum", "d", schema, run)]), tainted=False)


def intent(one: Prepared, *, approved: bool = False) -> Intent:
    return Intent(one.call.id, one.call.name, one.digest, approved)


def intents(*of: Prepared, turn: str = "t") -> RecordIntents:
    return RecordIntents("s", turn, tuple(intent(one) for one in of), 1.0)


# --- the rows ----------------------------------------------------------------------------------------------


def test_a_call_is_on_record_from_before_it_begins(connection: sqlite3.Connection) -> None:
    (one,) = prepared(CALL)
    journal.intend(connection, intents(one))
    assert journal.recorded(connection, "s", "t") == ({"c1": Recorded(intent(one))}, 0)


def test_its_outcome_is_added_when_it_ended(connection: sqlite3.Connection) -> None:
    (one,) = prepared(CALL)
    journal.intend(connection, intents(one))
    journal.settle(connection, RecordOutcome("s", "t", DONE, 1.0))
    assert journal.recorded(connection, "s", "t") == ({"c1": Recorded(intent(one), DONE)}, 0)


def test_the_same_id_with_another_input_is_a_typed_conflict(connection: sqlite3.Connection) -> None:
    """C5"""
    journal.intend(connection, intents(*prepared(CALL)))
    with pytest.raises(Conflict) as caught:
        journal.intend(connection, intents(*prepared(replace(CALL, input={"x": "eggs"}))))
    assert caught.value.type == "Conflict"


def test_a_call_that_has_ended_cannot_begin_again(connection: sqlite3.Connection) -> None:
    (one,) = prepared(CALL)
    journal.intend(connection, intents(one))
    journal.intend(connection, intents(one))  # it was looked for and not found: it begins once more
    journal.settle(connection, RecordOutcome("s", "t", DONE, 1.0))
    with pytest.raises(Conflict):
        journal.intend(connection, intents(one))


def test_the_same_id_in_another_turn_is_another_call(connection: sqlite3.Connection) -> None:
    journal.intend(connection, intents(*prepared(CALL)))
    journal.intend(connection, intents(*prepared(replace(CALL, input={"x": "eggs"})), turn="t2"))
    assert [len(journal.recorded(connection, "s", turn)[0]) for turn in ("t", "t2", "t3")] == [1, 1, 0]


def test_an_outcome_without_an_intent_gets_no_row(connection: sqlite3.Connection) -> None:
    journal.settle(connection, RecordOutcome("s", "t", DONE, 1.0))
    assert journal.recorded(connection, "s", "t") == ({}, 0)


@pytest.mark.parametrize("column", ["tool", "digest", "approved", "status", "result"])
def test_a_damaged_row_only_shows_that_its_call_began(connection: sqlite3.Connection, column: str) -> None:
    journal.intend(connection, intents(*prepared(CALL)))
    journal.settle(connection, RecordOutcome("s", "t", DONE, 1.0))
    connection.execute(f"UPDATE calls SET {column} = {column} || 'x'")
    assert journal.recorded(connection, "s", "t") == ({"c1": Recorded(Intent("c1", "", "", approved=False))}, 1)


def test_a_row_does_not_pass_for_another(connection: sqlite3.Connection) -> None:
    journal.intend(connection, intents(*prepared(CALL)))
    connection.execute("UPDATE calls SET call = 'c2'")
    assert journal.recorded(connection, "s", "t")[1] == 1


# --- what follows from them ----------------------------------------------------------------------------------


def settled(doors: Doors, one: Prepared, known: Recorded | None) -> CallResult | None:
    doors.run(reconciling(recall([one], {} if known is None else {"c1": known})))
    return one.result


def test_a_call_that_is_not_on_record_runs(doors: Doors) -> None:
    (one,) = prepared(CALL)
    assert settled(doors, one, None) is None


def test_a_call_that_is_done_keeps_its_answer(doors: Doors) -> None:
    (one,) = prepared(CALL)
    assert settled(doors, one, Recorded(intent(one), DONE)) == DONE


def test_a_write_that_began_is_unknown_where_nobody_can_look(doors: Doors) -> None:
    (one,) = prepared(CALL)
    result = settled(doors, one, Recorded(intent(one)))
    assert result is not None
    assert (result.status, result.fatal) == ("unknown", True)


def test_a_write_that_began_is_unknown_until_the_look_has_said_more() -> None:
    """A Ctrl-C right now must not make the program say that nothing was done."""
    (one,) = prepared(CALL, look=lambda: True)
    assert recall([one], {"c1": Recorded(intent(one))}) == [one]
    assert one.result is not None
    assert one.result.status == "unknown"


@pytest.mark.parametrize(
    ("said", "words"), [(True, "Saved."), (False, "Done: a look after a crash shows that it is there.")]
)
def test_a_write_that_is_there_was_done(doors: Doors, said: bool, words: str) -> None:
    (one,) = prepared(CALL, look=lambda: True, said=said)
    result = settled(doors, one, Recorded(intent(one)))
    assert result is not None
    assert (result.status, result.output, result.wrote) == ("ok", words, True)


def test_a_write_that_is_not_there_runs(doors: Doors) -> None:
    (one,) = prepared(CALL, look=lambda: False)
    assert settled(doors, one, Recorded(intent(one))) is None


def test_a_look_that_fails_leaves_it_unknown(doors: Doors) -> None:
    def stumble() -> bool:
        raise OSError("gone")

    (one,) = prepared(CALL, look=stumble)
    result = settled(doors, one, Recorded(intent(one)))
    assert result is not None
    assert result.status == "unknown"


def test_a_read_that_began_just_runs_again(doors: Doors) -> None:
    (one,) = prepared(ToolUse("c1", "sum", {}))
    assert settled(doors, one, Recorded(intent(one))) is None


def test_another_input_under_the_same_id_gets_no_old_answer(doors: Doors) -> None:
    (old,), (one,) = prepared(CALL), prepared(replace(CALL, input={"x": "eggs"}))
    result = settled(doors, one, Recorded(intent(old), DONE))
    assert result is not None
    assert (result.status, "stands for another call" in result.output) == ("failed", True)


def test_a_damaged_record_of_a_write_is_looked_at(doors: Doors) -> None:
    (one,) = prepared(CALL, look=lambda: True)
    result = settled(doors, one, Recorded(Intent("c1", "", "", approved=False)))
    assert result is not None
    assert result.status == "ok"


def test_a_call_whose_input_held_a_secret_is_not_run_again(doors: Doors) -> None:
    (one,) = prepared(replace(CALL, problem="it held a secret, which is not kept on disk"), look=lambda: False)
    result = settled(doors, one, Recorded(Intent("c1", "note", "the digest of what it was", approved=False)))
    assert result is not None
    assert result.status == "unknown"


# --- before it runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("earlier", "problem"), [("", "disk full"), ("disk full", "")])
def test_only_a_write_needs_its_record(doors: Doors, earlier: str, problem: str) -> None:
    write, read = prepared(CALL, ToolUse("c2", "sum", {}))
    doors.world[RecordIntents] = lambda effect: problem
    doors.run(intending("s", "t", [write, read], 1.0, earlier))
    assert read.result is None
    assert write.result is not None
    assert (write.result.status, write.result.fatal) == ("failed", True)
    assert "not run: it could not be recorded (disk full)" in write.result.output


def test_calls_that_will_not_run_are_not_recorded(doors: Doors) -> None:
    (one,) = prepared(CALL)
    one.unrun("denied", "no")

    def never(effect: RecordIntents) -> str:
        raise AgentError("asked")

    doors.world[RecordIntents] = never
    doors.run(intending("s", "t", [one], 1.0))


def test_the_same_write_is_done_once_in_a_question() -> None:
    """Asked for again after a fallback or a retry of the model, under another id."""
    tools = Toolbox([one.tool for one in prepared(CALL) if one.tool])
    again = replace(CALL, id="c9")
    (one,) = prepare([again], tools, tainted=False, earlier=[DONE])
    assert one.result is not None
    assert (one.result.status, "done already" in one.result.output) == ("skipped", True)
    (one,) = prepare([again], tools, tainted=False, earlier=[replace(DONE, status="unknown", wrote=False)])
    assert one.result is not None
    assert "unknown" in one.result.output
    (one,) = prepare([again], tools, tainted=False, earlier=[replace(DONE, status="failed", wrote=False)])
    assert one.result is None
