"""The simulated world is the same for the same seed, finds what is wrong in it, and nothing is wrong.

`SIMULATION_RUNS` says how many seeds are run here; the ten thousand of a release are `make million`'s little sister
`python -m tests.simulation --runs 10000`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simulation.campaign import Campaign, judged, run_campaign
from tests.simulation.checkers import check, check_end
from tests.simulation.files import Drive, File, Folder
from tests.simulation.plans import SONNET, Asked, Plan, draw_plan
from tests.simulation.scripts import Round, note
from tests.simulation.shrink import as_test, shrunk
from tests.simulation.strikes import CELLS, PATHS, Strike
from tests.simulation.world import KEYS, NOTES, WATCHED, Simulation

ROOT = Path(__file__).parent.parent
RUNS = int(os.environ.get("SIMULATION_RUNS", "120"))
SAVE = Round("tools", (note(1, 0),))
QUIET = Plan(WATCHED, SONNET, "ask", (Asked(1, (SAVE,)), Asked(2, ())))


def test_nothing_is_wrong_in_any_run() -> None:
    campaign = run_campaign(first=0, runs=RUNS, workers=1)
    assert campaign.failed == []
    assert campaign.runs == RUNS


def test_the_seeds_go_through_the_whole_matrix() -> None:
    aimed = set()
    for seed in range(len(CELLS)):
        strikes = {(one.where, one.kind) for asked in draw_plan(seed).questions for one in asked.strikes}
        assert CELLS[seed] in strikes
        assert draw_plan(seed).questions[-1].strikes == ()
        aimed |= strikes
    assert aimed == set(CELLS)
    assert len(set(CELLS)) == len(CELLS)


def test_a_cell_that_was_never_hit_is_named() -> None:
    campaign = Campaign(runs=10)
    campaign.hits.update((*CELLS[1:], *PATHS[:-1]))
    assert campaign.missed == [CELLS[0], PATHS[-1]]
    assert campaign.bound == "0 failures in 10 runs: the rate is below 0.3 (95 %)"


def test_the_same_seed_is_the_same_run_in_every_process() -> None:
    def hashed(hash_seed: str) -> str:
        words = [sys.executable, "-m", "tests.simulation", "--runs", "12", "--workers", "1", "--json"]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        return str(json.loads(done.stdout)["trace_hash"])

    assert hashed("1") == hashed("2")
    assert judged(draw_plan(1)).trace_hash == judged(draw_plan(1)).trace_hash != judged(draw_plan(2)).trace_hash


# --- the checkers find what is wrong ---------------------------------------------------------------------


def _notes(sim: Simulation) -> Folder:
    folder = sim.drive.find(NOTES)
    assert isinstance(folder, Folder)
    return folder


def _lost(sim: Simulation) -> None:
    _notes(sim).names.clear()


def _torn(sim: Simulation) -> None:
    for node in _notes(sim).names.values():
        assert isinstance(node, File)
        node.data = node.data[:3]


def _unsynced(sim: Simulation) -> None:
    _notes(sim).synced.clear()


def _stranger(sim: Simulation) -> None:
    _notes(sim).names["another.md"] = File(b"x", b"x")


def _temp(sim: Simulation) -> None:
    _notes(sim).names[".unswept"] = File(b"x", b"x")


def _untrusted(sim: Simulation) -> None:
    for node in _notes(sim).names.values():
        assert isinstance(node, File)
        node.synced = node.data = b"---\nuntrusted: true\n---\n" + node.data


def _leak(sim: Simulation) -> None:
    sim.database.connection.execute("UPDATE turns SET question = ?", (KEYS[0],))


def _late(sim: Simulation) -> None:
    sim.told[-1].ended_s += 31


@pytest.mark.parametrize(
    ("tamper", "promise"),
    [(_lost, "C1"), (_torn, "C1"), (_unsynced, "C2"), (_stranger, "C1"), (_temp, "C2"), (_untrusted, "G1"),
     (_leak, "F1"), (_late, "E7")],
)  # fmt: skip
def test_what_is_wrong_at_the_end_is_found(tamper: Callable[[Simulation], None], promise: str) -> None:
    def tampered(sim: Simulation) -> None:
        assert sim.problems == []
        tamper(sim)
        check_end(sim)

    sim = Simulation(QUIET)
    sim.run(check, tampered)
    assert {problem.partition(":")[0] for problem in sim.problems} == {promise}


def _handle(sim: Simulation) -> None:
    sim.os.open(NOTES, 0)


def _place(sim: Simulation) -> None:
    sim.agent.guards("calculator").bulkhead.enter()


def _uncounted(sim: Simulation) -> None:
    sim.struck += 1


def _logged(sim: Simulation) -> None:
    sim.log._lines.append(f"key={KEYS[0]}")


def _shown(sim: Simulation) -> None:
    sim.screen._out.write("\x1b[2J")


def _rewritten(sim: Simulation) -> None:
    trace_id = sim.told[-1].answer.trace_id  # type: ignore[union-attr]
    sim.traces.traces[trace_id] = {**sim.traces.traces[trace_id], "status": "failed"}


def _overdue(sim: Simulation) -> None:
    sim.told[-1].began_s -= 31


@pytest.mark.parametrize(
    ("tamper", "promise"),
    [(_handle, "leftover"), (_place, "leftover"), (_uncounted, "I5"), (_logged, "F1"), (_shown, "F2"),
     (_rewritten, "C6"), (_overdue, "B1")],
)  # fmt: skip
def test_what_is_wrong_after_a_question_is_found(tamper: Callable[[Simulation], None], promise: str) -> None:
    def tampered(sim: Simulation) -> None:
        if len(sim.told) == 1:
            tamper(sim)
        check(sim)

    sim = Simulation(QUIET)
    sim.run(tampered, lambda sim: None)
    assert promise in {problem.partition(":")[0] for problem in sim.problems}


# --- small and ready ---------------------------------------------------------------------------------------


def test_a_failing_run_shrinks_to_what_makes_it_fail() -> None:
    guilty = Strike("os.fsync", "EIO", 1)
    plan = next(plan for seed in range(200) if len((plan := draw_plan(seed)).questions) > 2)
    first, second, last = plan.questions
    second = Asked(2, (SAVE, Round("thinking", (note(2, 1), note(2, 2)))), (*second.strikes, guilty))

    def problems(plan: Plan) -> tuple[str, ...]:
        calls = [call for asked in plan.questions for one in asked.script for call in one.calls]
        is_guilty = any(guilty in asked.strikes for asked in plan.questions) and note(2, 2) in calls
        return ("C2: lost", "E7: also") if is_guilty else ()

    small = shrunk(Plan(plan.seed, plan.chain, plan.approve, (first, second, last)), problems)
    assert small.questions == (Asked(2, (Round("tools", (note(2, 2),)),), (guilty,)), Asked(last.number, ()))


def test_a_failing_run_is_told_as_a_test_that_can_be_run() -> None:
    names: dict[str, Callable[[], None]] = {}
    exec(as_test(draw_plan(3), 'C1: "lost"'), names)  # what a person would put into a file
    names["test_seed_3"]()


# --- the disk -----------------------------------------------------------------------------------------------


def test_a_power_cut_keeps_what_was_synced_and_of_the_rest_anything() -> None:
    outcomes = set()
    for draw in (0.0, 0.3, 0.45, 0.99):
        drive, synced, written = Drive(), File(b"synced", b"synced"), File(b"written")
        drive.root.names = {"old": synced, "new": synced, "torn": written}
        drive.root.synced = {"old": synced, "torn": written}
        drive.cut_power(lambda draw=draw: draw)  # type: ignore[misc]
        assert drive.root.names["old"] is synced
        assert synced.data == b"synced"
        outcomes.add(("new" in drive.root.names, written.data))
    assert len(outcomes) > 2
