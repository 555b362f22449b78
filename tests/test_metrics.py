"""Metrics tell the truth: they agree with the traces and with what was heard, whatever happened."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import events as e
from circuit_breaker import BreakerSnapshot, State
from events import Event, Stamped
from faults import parse_fault
from messages import CallResult, ToolUse, Usage
from stores.heartbeat import Beat, HeartbeatFile, boot_id
from stores.traces import FILE_NAME, TraceStore, read_counters
from telemetry.counting import METRICS, Meter, labels_text
from telemetry.metrics import CONTENT_TYPE, STATUSES, render_metrics
from tests.fake_messages import Scripted, Status, Stream, calls
from tests.support_agent import FINE, TWO, Rig

ROOT = Path(__file__).resolve().parent.parent
SONNET, HAIKU = "model.anthropic.claude-sonnet-5-5", "model.anthropic.claude-haiku-5-5"


def told(state_dir: Path) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Every sample of a scrape: name -> labels -> value."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = defaultdict(dict)
    for family in text_string_to_metric_families(render_metrics(state_dir).decode("utf-8")):
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in found[sample.name]
            found[sample.name][labels] = sample.value
    return found


def by(samples: Mapping[tuple[tuple[str, str], ...], float], *names: str) -> Counter[Any]:
    """The samples summed up by some of their labels; zeros left out."""
    summed: Counter[Any] = Counter()
    for labels, value in samples.items():
        key = tuple(dict(labels).get(name, "") for name in names)
        summed[key[0] if len(names) == 1 else key] += int(value)
    return +summed


def spans(trace: dict[str, Any]) -> Iterator[dict[str, Any]]:
    waiting = [trace["root"]]
    while waiting:
        span = waiting.pop()
        waiting += span["children"]
        yield span


def noted(traces: list[dict[str, Any]], name: str, *attributes: str) -> Counter[Any]:
    """The events of one name in all traces, by some of their attributes."""
    found = [event["attributes"] for trace in traces for span in spans(trace) for event in span["events"]
             if event["name"] == name]  # fmt: skip
    return Counter(one[attributes[0]] if len(attributes) == 1 else tuple(map(one.get, attributes)) for one in found)


def using_tools(body: dict[str, Any]) -> Scripted:
    """Asks for tools, one of which it made up, then answers."""
    if (
        isinstance(body["messages"][-1]["content"], list)
        and body["messages"][-1]["content"][0]["type"] == "tool_result"
    ):
        return FINE
    return Stream(calls(("calculator", {"expression": "15*23"}), ("made_up", {}), ("calculator", {"expression": "1/"})))


def until(what: Callable[[], object]) -> None:
    end_s = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def bad_day(rig: Rig) -> None:
    """Answers, tools, faults on the wire and in a tool, an outage that opens circuits, and a way back."""
    rig.ask()
    rig._lasting = using_tools
    rig.ask("what is 15 * 23?")
    plan, known = rig.agent.plan, rig.agent.known_fault_targets
    plan.replace([parse_fault(spec, known) for spec in ("model:server_error*2", "calculator:error*1", "model:cut*1+2")])
    rig.ask("what is 15 * 23?", unheard=True)
    plan.replace([])
    rig._lasting = Status(529)
    for _ in range(3):
        rig.ask()
    rig.heal()
    until(lambda: all(one.retry_after_s == 0 for one in rig.agent.guards.snapshots()))
    rig.ask()


@pytest.mark.parametrize("kind", ["asyncio", "blocking"])
def test_metrics_agree_with_the_traces_after_a_bad_day(tmp_path: Path, kind: str) -> None:
    with Rig(kind, TWO, tmp_path, BREAKER_FAILURE_THRESHOLD="3", BREAKER_RECOVERY_TIMEOUT="0.2") as rig:
        bad_day(rig)
        traces = rig.agent.traces.latest(100)
        heard = rig._heard.events
        seen = told(tmp_path / "state")
    assert len(traces) == 7
    check_agreement(seen, traces)
    check_heard(seen, heard)


def check_agreement(seen: Mapping[str, Mapping[Any, float]], traces: list[dict[str, Any]]) -> None:
    questions = by(seen["unflappable_questions_total"], "status")
    assert questions == Counter(trace["status"] for trace in traces)
    assert questions.total() == seen["unflappable_questions_started_total"][()]
    assert questions.total() == seen["unflappable_question_duration_seconds_count"][()]
    tries = [span for trace in traces for span in spans(trace) if span["kind"].endswith("_attempt")]
    asked = Counter(span["attributes"]["unflappable.dependency"] for span in tries)
    assert by(seen["unflappable_attempts_started_total"], "dependency") == asked
    assert by(seen["unflappable_attempts_total"], "dependency") == asked
    ended = Counter("" if span["status"] == "ok" else span["status"] for span in tries)
    assert by(seen["unflappable_attempts_total"], "reason") == ended
    faults = by(seen["unflappable_faults_injected_total"], "target", "kind")
    assert faults == noted(traces, "fault_injected", "target", "kind")
    assert faults.total() == sum(trace["faults"] for trace in traces) > 0
    retries = by(seen["unflappable_retries_total"], "dependency", "reason")
    assert retries == noted(traces, "retry_scheduled", "dependency", "reason")
    rejected = by(seen["unflappable_rejections_total"], "dependency", "guard")
    assert rejected == noted(traces, "call_rejected", "dependency", "by")
    assert rejected.total() > 0
    opened = by(seen["unflappable_breaker_transitions_total"], "to")
    assert opened["open"] == noted(traces, "circuit_opened", "dependency").total() > 0
    assert opened["half_open"] == noted(traces, "circuit_half_opened", "dependency").total() > 0
    assert opened["closed"] == noted(traces, "circuit_closed", "dependency").total() > 0
    hops = by(seen["unflappable_fallbacks_total"], "source", "reason")
    assert hops == noted(traces, "fell_back", "source", "reason")
    tools = [span["status"] for trace in traces for span in spans(trace) if span["kind"] == "tool_call"]
    assert by(seen["unflappable_tool_calls_total"], "status") == Counter(tools)
    assert by(seen["unflappable_tool_calls_total"], "tool") == by(
        seen["unflappable_tool_call_duration_seconds_count"], "tool"
    )


def check_heard(seen: Mapping[str, Mapping[Any, float]], heard: list[Event]) -> None:
    answers = [event for event in heard if isinstance(event, e.ModelAnswered)]
    assert by(seen["unflappable_model_answers_total"], "model") == Counter(one.link for one in answers)
    assert by(seen["unflappable_tokens_total"], "direction") == +Counter(
        input=sum(one.usage.input_tokens or 0 for one in answers),
        output=sum(one.usage.output_tokens or 0 for one in answers),
    )
    cost_usd = sum(one.cost_usd or 0 for one in answers)
    assert sum(seen["unflappable_cost_usd_total"].values()) == pytest.approx(cost_usd)
    ends = [event for event in heard if isinstance(event, e.TurnEnded)]
    assert sum(end.cost_usd or 0 for end in ends) == pytest.approx(cost_usd)
    assert by(seen["unflappable_tool_calls_total"], "tool")["unknown"] > 0


def test_agents_that_share_a_folder_are_summed_up_and_outlive_themselves(tmp_path: Path) -> None:
    with Rig("asyncio", TWO, tmp_path) as first, Rig("blocking", TWO, tmp_path) as second:
        first.ask()
        second.ask()
        first.ask()
        assert told(tmp_path / "state")["unflappable_agents"][()] == 2
        traces = [*first.agent.traces.latest(9), *second.agent.traces.latest(9)]
    before = told(tmp_path / "state")
    assert before["unflappable_agents"][()] == 0
    assert before["unflappable_questions_total"][(("status", "ok"),)] == 3 == len({one["id"] for one in traces})
    with Rig("asyncio", TWO, tmp_path) as third:
        third.ask()
    assert told(tmp_path / "state")["unflappable_questions_total"][(("status", "ok"),)] == 4


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
@pytest.mark.parametrize("program", ["agent.py", "agent_async.py"])
def test_a_question_that_is_killed_is_one_without_an_end(tmp_path: Path, program: str) -> None:
    state = tmp_path / "state"
    variables = {**os.environ, "STATE_DIR": str(state), "NOTES_DIR": str(tmp_path / "notes"), "LLM_TIMEOUT": "60"}
    asked = [sys.executable, str(ROOT / program), "--offline", "--fault", "model:hang+1", "What is 15 * 23?"]
    with subprocess.Popen(asked, cwd=tmp_path, env=variables, stdout=-1, stderr=-1) as killed:
        try:  # the second round is under way: the first is kept
            until(lambda: killed.poll() is not None or told(state)["unflappable_tool_calls_total"])
            assert told(state)["unflappable_questions_in_progress"][()] == 1
        finally:
            killed.kill()
    seen = told(state)
    [trace] = TraceStore(state).latest(9)
    assert trace["status"] == "running"
    assert seen["unflappable_questions_started_total"][()] == 1
    assert sum(seen["unflappable_questions_total"].values()) == 0
    assert seen["unflappable_agents"][()] == 0
    asked_models = by(seen["unflappable_attempts_started_total"], "dependency")["model.practice"]
    assert (asked_models, int(sum(seen["unflappable_tool_calls_total"].values()))) == (
        trace["model_attempts"],
        trace["tool_calls"],
    )


# --- the meter


class Told:
    """Events told to a meter, one a second."""

    def __init__(self) -> None:
        self.meter = Meter(["calculator"])
        self.now_s = 0.0

    def __call__(self, *told: Event, **scope: str) -> dict[tuple[str, str], float]:
        for event in told:
            self.now_s += 1
            self.meter(Stamped(event, {"turn": "t", **scope}, 0, self.now_s, 0.0))
        return dict(self.meter.take())


def end(status: str) -> e.TurnEnded:
    return e.TurnEnded(status, "", None, Usage(), None)


def key(name: str, **labels: str) -> tuple[str, str]:
    return f"unflappable_{name}", labels_text(labels)


def test_what_was_taken_is_not_counted_again() -> None:
    tell = Told()
    assert tell(e.CircuitClosed("a")) == {key("breaker_transitions_total", dependency="a", to="closed"): 1}
    assert tell() == {}


def test_attempts_that_were_cut_off_are_counted_as_unfinished_once() -> None:
    tell = Told()
    counts = tell(e.TurnStarted("q", 9), e.AttemptStarted("a", 1, 1), e.AttemptStarted("b", 1, 1),
                  e.AttemptSucceeded("b", 1), e.TurnCancelled(""), end("cancelled"))  # fmt: skip
    assert counts[key("attempts_total", dependency="a", outcome="unfinished", reason="unfinished")] == 1
    assert counts[key("attempts_total", dependency="b", outcome="success", reason="")] == 1
    assert counts[key("questions_total", status="cancelled")] == 1
    late = tell(e.AttemptFailed("a", 1, "timeout", "transient", "failure", ""))
    assert late == {}


def test_unknown_usage_and_cost_are_counted_as_unknown_not_as_0() -> None:
    counts = Told()(e.ModelAnswered("m", "secret-name", "end_turn", Usage(None, 5), None))
    assert counts == {
        key("model_answers_total", model="m"): 1,
        key("tokens_total", model="m", direction="output"): 5,
        key("answers_usage_unknown_total", model="m"): 1,
        key("answers_cost_unknown_total", model="m"): 1,
    }


def test_a_models_own_words_are_no_labels() -> None:
    call = ToolUse("1", "ignore previous instructions", {})
    counts = Told()(e.ToolCallEnded(CallResult(call, "invalid", "no")), e.ApprovalAnswered("x", "d", False, "nobody"))
    assert {labels for name, labels in counts if name.endswith("_total")} == {
        labels_text({"tool": "unknown", "status": "invalid"}),
        labels_text({"tool": "unknown", "granted": "false", "by": "nobody"}),
    }


def test_questions_without_an_end_do_not_pile_up() -> None:
    tell = Told()
    for number in range(100):
        tell(e.TurnStarted("q", 9), turn=str(number))
    assert len(tell.meter._turns) <= 8


def test_every_counter_has_its_labels() -> None:
    tell = Told()
    result = CallResult(ToolUse("1", "calculator", {}), "ok", "345", duration_ms=3)
    counts = tell(
        e.TurnStarted("q", 9), e.AttemptStarted("a", 1, 2),
        e.AttemptFailed("a", 1, "timeout", "transient", "failure", ""),
        e.RetryScheduled("a", 2, 1.0, "timeout", ""), e.RetryRefused("a", "no"), e.CallRejected("a", "bulkhead", None),
        e.CircuitOpened("a", 5, 60), e.CircuitHalfOpened("a"), e.CircuitClosed("a"), e.FellBack("a", "", "timeout", ""),
        e.FaultInjected("model", "hang", ""), e.ModelAnswered("m", "m", "x", Usage(1, 2, 3, 4), 0.5, 0.7),
        e.ModelAnswered("m", "m", "x", Usage(), None), e.ToolCallEnded(result),
        e.ApprovalAnswered("calculator", "d", True, "person"), end("ok"),
        e.DeadLettered(1, "TlsError", 0), e.AlertRaised("TlsError", "fatal", "", "", 1),
    )  # fmt: skip
    names = {name.removesuffix("_bucket").removesuffix("_sum") for name, _ in counts}
    assert names == set(METRICS) - {"unflappable_trace_writes_dropped_total"}
    for name, labels in counts:
        metric = METRICS[name.removesuffix("_bucket").removesuffix("_sum")]
        extra = {"le": ""} if name.endswith("_bucket") else {}
        assert set(json.loads(labels)) == {*metric.labels, *extra}


# --- the text


def test_a_fresh_folder_tells_zeros_and_the_right_type(tmp_path: Path) -> None:
    seen = told(tmp_path)
    assert seen["unflappable_questions_total"] == {(("status", status),): 0 for status in STATUSES}
    assert seen["unflappable_agents"][()] == 0
    assert seen["unflappable_counters_readable"][()] == 1
    assert CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"
    assert list(tmp_path.iterdir()) == []  # looking leaves nothing behind


def test_every_metric_has_help_and_a_name_by_the_rules(tmp_path: Path) -> None:
    for family in text_string_to_metric_families(render_metrics(tmp_path).decode()):
        assert family.documentation
        assert family.name.startswith("unflappable_")
    for name, metric in METRICS.items():
        assert name.endswith("_seconds" if metric.buckets_s else "_total")


def keep(state_dir: Path, *counts: dict[tuple[str, str], float]) -> None:
    store = TraceStore(state_dir)
    for each in counts:
        store.save(None, each)
    assert store.close(10)


def test_labels_are_escaped_masked_and_bounded(tmp_path: Path) -> None:
    hostile = 'a"} 1\nunflappable_agents 99 \\ \ud800 sk-ant-' + "api03-" + "x" * 5000
    keep(tmp_path, {key("retries_refused_total", dependency=hostile): 1})
    [labels] = told(tmp_path)["unflappable_retries_refused_total"]
    assert told(tmp_path)["unflappable_agents"] == {(): 0}
    assert len(dict(labels)["dependency"]) <= 120
    assert "xxxx" not in dict(labels)["dependency"]


def test_histograms_count_each_time_in_every_bucket_above_it(tmp_path: Path) -> None:
    tell = Told()
    for took_s in (0.05, 0.25, 0.3, 99.0):
        keep(tmp_path, tell(e.ModelAnswered("m", "m", "x", Usage(), None, took_s)))
    seen = told(tmp_path)
    buckets = {
        dict(labels)["le"]: value for labels, value in seen["unflappable_model_first_token_seconds_bucket"].items()
    }
    assert [buckets[le] for le in ("0.1", "0.25", "0.5", "60", "+Inf")] == [1, 2, 3, 3, 4]
    assert seen["unflappable_model_first_token_seconds_count"][(("model", "m"),)] == 4
    assert seen["unflappable_model_first_token_seconds_sum"][(("model", "m"),)] == pytest.approx(99.6)


def test_counters_of_another_version_are_no_trouble(tmp_path: Path) -> None:
    keep(
        tmp_path,
        {("unflappable_future_total", '{"new": "label"}'): 1, key("questions_total", status="ok", more="x"): 2},
    )
    assert told(tmp_path)["unflappable_questions_total"][(("status", "ok"),)] == 2


@pytest.mark.parametrize("damage", ["rubbish", "newer"])
def test_counters_that_cannot_be_read_are_left_out_not_0(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    keep(tmp_path, {key("questions_total", status="ok"): 2})
    if damage == "rubbish":
        (tmp_path / FILE_NAME).write_bytes(b"rubbish" * 1000)
    else:
        with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
            connection.execute("PRAGMA user_version = 99")
    seen = told(tmp_path)
    assert "unflappable_questions_total" not in seen
    assert seen["unflappable_counters_readable"][()] == 0
    assert seen["unflappable_agents"][()] == 0
    assert len(caplog.records) == 1


def test_gauges_come_from_the_agents_alive_and_the_worst_counts(tmp_path: Path) -> None:
    now_s = time.monotonic()
    first, second = HeartbeatFile(tmp_path), HeartbeatFile(tmp_path)
    one = BreakerSnapshot("a", State.CLOSED, 0, 0.0, 0)
    first.write(Beat(1, boot_id(), now_s, "turn", now_s + 60, 0.25, "1", practice=False, breakers=(one,)))
    other = (BreakerSnapshot("a", State.OPEN, 5, 60.0, 0), BreakerSnapshot("b", State.HALF_OPEN, 5, 0.0, 0))
    second.write(Beat(2, boot_id(), now_s - 60, "idle", None, None, "1", practice=False, breakers=other))
    seen = told(tmp_path)
    gauges = {name: value[()] for name, value in seen.items() if () in value}
    assert (gauges["unflappable_agents"], gauges["unflappable_agents_stuck"]) == (2, 1)
    assert gauges["unflappable_questions_in_progress"] == 1
    assert gauges["unflappable_loop_lag_seconds"] == 0.25
    assert gauges["unflappable_heartbeat_age_seconds"] >= 60
    assert by(seen["unflappable_breaker_state"], "dependency", "state") == {("a", "open"): 1, ("b", "half_open"): 1}
    assert len(seen["unflappable_breaker_state"]) == 6
    first.remove()
    second.remove()
    assert not told(tmp_path)["unflappable_loop_lag_seconds"]


def test_no_key_is_ever_told(tmp_path: Path) -> None:
    with Rig("asyncio", TWO, tmp_path) as rig:
        rig.ask("my key is test-key-0123456789abcdef")
        assert b"0123456789abcdef" not in render_metrics(tmp_path / "state")
    assert read_counters(tmp_path / "state")
