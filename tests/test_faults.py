"""Faults on purpose: the grammar says no clearly, and one seed always decides the same."""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errors import ConfigurationError
from faults import KINDS, LIES, Crashed, Fault, FaultPlan, FaultSpec, parse_fault

KNOWN = [
    "calculator", "save_note", "find_notes", "web_search", "web_search.tavily", "web_search.wikipedia",
    "get_weather", "get_weather.open_meteo",
]  # fmt: skip
MODEL = "model.anthropic.claude-sonnet-5-5"
WEATHER = "get_weather.open_meteo"


def plan(*specs: str, seed: int = 0) -> FaultPlan:
    return FaultPlan([parse_fault(spec, KNOWN) for spec in specs], seed)


def strikes(of: FaultPlan, target: str, times: int) -> list[str]:
    """The kinds that struck, "-" where none did."""
    faults = [of.next(target) for _ in range(times)]
    return [fault.kind if fault else "-" for fault in faults]


# --- the grammar -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("model:rate_limit@0.3", FaultSpec("model", "rate_limit", None, 0.3)),
        ("model:rate_limit=7.5", FaultSpec("model", "rate_limit", "7.5")),
        ("model:overloaded*4", FaultSpec("model", "overloaded", count=4)),
        ("model:cut=text*1", FaultSpec("model", "cut", "text", count=1)),
        ("model:cut", FaultSpec("model", "cut", "text")),
        ("model:cut=start", FaultSpec("model", "cut", "start")),
        ("model:stall", FaultSpec("model", "stall", "text")),
        ("model:stall=tool", FaultSpec("model", "stall", "tool")),
        ("web_search:error", FaultSpec("web_search", "error")),
        ("get_weather:hang", FaultSpec("get_weather", "hang")),
        ("save_note:slow=15*1", FaultSpec("save_note", "slow", "15", count=1)),
        ("save_note:slow=0.5@0.25*3+2", FaultSpec("save_note", "slow", "0.5", 0.25, 3, 2)),
        ("calculator:error@1e-3", FaultSpec("calculator", "error", None, 0.001)),
        ("calculator:error@.5+0", FaultSpec("calculator", "error", None, 0.5)),
        ("disk:full", FaultSpec("disk", "full")),
        ("*:error@0", FaultSpec("*", "error", rate=0.0)),
        ("*:cut", FaultSpec("*", "cut", "text")),
        ("*:full*2", FaultSpec("*", "full", count=2)),
        ("model.anthropic:auth", FaultSpec("model.anthropic", "auth")),
        (f"{MODEL}:overloaded*1", FaultSpec(MODEL, "overloaded", count=1)),
        ("model.local.llama3.2:8b-q4@x*y+z:reset", FaultSpec("model.local.llama3.2:8b-q4@x*y+z", "reset")),
        ("web_search.wikipedia:html", FaultSpec("web_search.wikipedia", "html")),
        ("model:crash*1", FaultSpec("model", "crash", "before", count=1)),
        ("save_note:crash=after", FaultSpec("save_note", "crash", "after")),
        ("disk:crash+2", FaultSpec("disk", "crash", "before", after=2)),
        ("get_weather:stale", FaultSpec("get_weather", "stale")),
        ("save_note:noop", FaultSpec("save_note", "noop")),
        ("*:wrong@0.2", FaultSpec("*", "wrong", rate=0.2)),
    ],
)
def test_a_spec_is_read_as_it_was_meant(spec: str, expected: FaultSpec) -> None:
    read = parse_fault(f" {spec} ", KNOWN)
    assert str(read) == spec
    wanted = (expected.target, expected.kind, expected.argument, expected.rate, expected.count, expected.after)
    assert (read.target, read.kind, read.argument, read.rate, read.count, read.after) == wanted


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("", "TARGET:KIND"),
        ("model", "TARGET:KIND"),
        ("model:", "unknown kind"),
        (":error", "unknown target"),
        ("model:overlaoded", "did you mean overloaded?"),
        ("model:Rate_Limit", "did you mean rate_limit?"),
        ("modell:error", "did you mean model?"),
        ("calculater:error", "did you mean calculator?"),
        ("get_weather.open_mateo:error", "did you mean get_weather.open_meteo?"),
        ("get_weather.:error", "unknown target"),
        ("model.:error", "unknown target"),
        ("model.Anthropic:error", "unknown target"),
        ("nothing_like_it:error", "web_search"),
        ("redis:rate_limit", "rate_limit does not strike"),
        ("redis.main:refused", "unknown target"),
        ("model:crash=later", "before or after"),
        ("model:crash=", "before or after"),
        ("redis:crash", "crash does not strike 'redis'"),
        ("model:wrong", "wrong does not strike 'model'; kinds for it: error"),
        ("disk:noop", "noop does not strike 'disk'"),
        ("get_weather:stale=3", "stale takes no argument, as in get_weather:stale"),
        ("save_note:noop=1", "noop takes no argument, as in save_note:noop"),
        ("model:cut=middle", "text or start or tool or end"),
        ("model:cut=", "text or start or tool or end"),
        ("model:stall=end", "text or tool"),
        ("save_note:slow", "slow=15"),
        ("save_note:slow=", "seconds"),
        ("save_note:slow=soon", "seconds"),
        ("save_note:slow=-1", "seconds"),
        ("save_note:slow=inf", "seconds"),
        ("save_note:slow=nan", "seconds"),
        ("save_note:slow=1e999", "TARGET:KIND|seconds"),
        ("save_note:slow=1000001", "seconds"),
        ("model:rate_limit=x", "seconds"),
        ("model:hang=3", "hang takes no argument"),
        ("disk:full=3", "full takes no argument"),
        ("model:error@", "RATE"),
        ("model:error@1.01", "0 to 1"),
        ("model:error@-0.1", "0 to 1"),
        ("model:error@nan", "0 to 1"),
        ("model:error@30%", "0 to 1"),
        ("model:error@0_1", "0 to 1"),
        ("model:error@٠", "0 to 1"),
        ("model:error*0", "COUNT"),
        ("model:error*-1", "COUNT"),
        ("model:error*1.5", "COUNT"),
        ("model:error*", "COUNT"),
        ("model:error*" + "9" * 5000, "COUNT"),
        ("model:error+-1", "AFTER"),
        ("model:error+", "AFTER"),
        ("model:error+1*2", "AFTER"),
        ("model:error*2@0.5", "COUNT"),
        ("save_note:cut", "cut does not strike 'save_note'"),
        ("web_search:bad_tool", "does not strike"),
        ("web_search:full", "does not strike"),
        ("model:full", "does not strike"),
        ("disk:rate_limit", "error, slow, hang, full, crash"),
        ("disk:cut", "does not strike"),
    ],
)
def test_a_wrong_spec_is_refused_with_the_reason_and_what_is_allowed(spec: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        parse_fault(spec, KNOWN)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


LYING = {"save_note": ("noop",), "my_tool": (), "get_weather": ("wrong", "stale"), WEATHER: ("wrong", "stale")}


@pytest.mark.parametrize(
    "spec", ["save_note:noop", "get_weather:stale", f"{WEATHER}:wrong", "*:swapped", "my_tool:error"]
)
def test_a_lie_that_its_tool_can_tell_is_taken(spec: str) -> None:
    assert str(parse_fault(spec, LYING)) == spec


@pytest.mark.parametrize("spec", ["save_note:wrong", "get_weather:noop", f"{WEATHER}:swapped", "my_tool:noop"])
def test_a_lie_that_its_tool_cannot_tell_is_refused_with_those_it_can(spec: str) -> None:
    target, _, kind = spec.partition(":")
    with pytest.raises(ConfigurationError, match=f"{kind} does not strike '{target}'; kinds for it: error") as caught:
        parse_fault(spec, LYING)
    offered = str(caught.value).partition("kinds for it: ")[2].split(", ")
    assert {word.partition(" ")[0] for word in offered} & set(LIES) == set(LYING[target])


def test_who_is_known_only_by_a_provider_tells_the_lies_of_the_provider() -> None:
    assert parse_fault("get_weather:wrong", {WEATHER: ("wrong",)}).kind == "wrong"
    with pytest.raises(ConfigurationError, match="wrong does not strike 'get_weather'"):
        parse_fault("get_weather:wrong", {WEATHER: (), "get_weather2": ("wrong",)})


def test_an_unknown_target_lists_those_there_are() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_fault("nothing:error", KNOWN)
    assert all(name in str(caught.value) for name in ("model", "calculator", "disk", "*"))


def test_a_hostile_spec_is_shown_cleaned_and_short() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_fault("\x1b]0;x\x07\n" + "a" * 5000 + ":error", KNOWN)
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_tool_is_known_by_its_providers_and_without_a_list_any_name_will_do() -> None:
    assert parse_fault("web_search:error", ["web_search.tavily"]).target == "web_search"
    assert parse_fault("my_tool:error").target == "my_tool"
    with pytest.raises(ConfigurationError):
        parse_fault("my tool:error")
    with pytest.raises(ConfigurationError):
        parse_fault("disk.other:error")


@given(st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_spec_or_a_configuration_error(text: str) -> None:
    for spec in (text, f"model:{text}", f"{text}:error", f"model:slow={text}"):
        with contextlib.suppress(ConfigurationError):
            read = parse_fault(spec, KNOWN)
            assert read.kind in KINDS
            FaultPlan([read], 1).next(read.target)


# --- who is struck ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "struck", "spared"),
    [
        ("model", ["model.practice", MODEL], ["web_search.tavily", "disk", "modelling"]),
        ("model.anthropic", [MODEL], ["model.google.gemini", "model.anthropic2.x"]),
        (MODEL, [MODEL], ["model.anthropic.claude-haiku-5-5", MODEL + "x"]),
        ("get_weather", ["get_weather.open_meteo", "get_weather"], ["get_weather2"]),
        ("web_search.tavily", ["web_search.tavily"], ["web_search.wikipedia", "web_search"]),
        ("disk", ["disk"], ["save_note"]),
        ("*", [MODEL, "save_note", "disk", WEATHER], []),
    ],
)
def test_a_target_strikes_what_it_names_and_all_below_it(target: str, struck: list[str], spared: list[str]) -> None:
    some = FaultPlan([parse_fault(f"{target}:error")], 0)
    assert [name for name in struck + spared if some.next(name)] == struck


def test_a_kind_strikes_only_where_it_makes_sense() -> None:
    cut, full = plan("*:cut"), plan("*:full")
    assert cut.next(WEATHER) is None
    assert cut.next("disk") is None
    assert cut.next(MODEL) == Fault("cut", "text", MODEL, "*:cut")
    assert full.next(MODEL) is None
    assert full.next("disk") is not None


def test_a_lie_strikes_only_who_says_that_it_can_tell_it_and_spends_nothing_on_others() -> None:
    some = plan("*:wrong*1+1", "*:stale")
    assert some.next(WEATHER) is None
    assert some.next(MODEL) is None
    assert [getattr(some.next(WEATHER, ("wrong",)), "kind", "-") for _ in range(3)] == ["-", "wrong", "-"]
    assert some.next(WEATHER, ("stale",)) == Fault("stale", None, WEATHER, "*:stale")


def test_a_crash_ends_the_process_and_where_there_is_none_the_run() -> None:
    killed: list[int] = []
    some = FaultPlan([parse_fault("model:crash")], kill=lambda: killed.append(1))
    fault = some.next(MODEL)
    assert fault is not None
    with pytest.raises(Crashed, match="model:crash"):
        some.crash(fault)
    assert killed == [1]
    assert not issubclass(Crashed, Exception)  # nothing that survives failures may survive this


def test_a_fault_carries_its_seconds() -> None:
    fault = plan("model:rate_limit=7").next(MODEL)
    assert fault is not None
    assert fault.seconds(1) == 7
    fault = plan("model:rate_limit").next(MODEL)
    assert fault is not None
    assert fault.seconds(1) == 1


# --- rate, count, after ----------------------------------------------------------------------------------


def test_a_count_is_spent_and_then_the_fault_is_off() -> None:
    some = plan("model:overloaded*2")
    assert some.active
    assert strikes(some, MODEL, 4) == ["overloaded", "overloaded", "-", "-"]
    assert not some.active
    assert len(some.specs) == 1


def test_the_first_attempts_are_spared() -> None:
    assert strikes(plan("model:reset*1+2"), MODEL, 4) == ["-", "-", "reset", "-"]


def test_attempts_that_do_not_concern_a_spec_do_not_use_up_what_it_spares() -> None:
    some = plan("*:cut+1")
    assert strikes(some, WEATHER, 3) == ["-", "-", "-"]
    assert strikes(some, MODEL, 2) == ["-", "cut"]


def test_the_rate_is_drawn_before_the_count_is_spent() -> None:
    outcome = strikes(plan("model:reset@0.3*5"), MODEL, 200)
    assert outcome.count("reset") == 5
    assert outcome[:5] != ["reset"] * 5


def test_the_first_spec_that_strikes_wins() -> None:
    assert strikes(plan("model:reset*1", "model:html"), MODEL, 3) == ["reset", "html", "html"]
    assert strikes(plan("model:reset+1", "model:html"), MODEL, 3) == ["html", "reset", "reset"]
    assert set(strikes(plan("model:reset@0.5", "model:html"), MODEL, 50)) == {"reset", "html"}


def test_a_spec_behind_one_that_strikes_is_not_asked() -> None:
    assert strikes(plan("model:reset*2", "model:html+1"), MODEL, 4) == ["reset", "reset", "-", "html"]


def test_rate_nought_never_and_rate_one_always_strikes() -> None:
    assert strikes(plan("model:reset@0"), MODEL, 50) == ["-"] * 50
    assert strikes(plan("model:reset@1"), MODEL, 50) == ["reset"] * 50


@given(st.integers(0, 2**63), st.sampled_from([0.1, 0.3, 0.5, 0.9]))
@settings(max_examples=20, deadline=None)
def test_the_share_of_strikes_is_the_rate(seed: int, rate: float) -> None:
    hits = strikes(plan(f"model:reset@{rate}", seed=seed), MODEL, 1000).count("reset")
    assert abs(hits / 1000 - rate) < 0.1  # six standard deviations


# --- give back -------------------------------------------------------------------------------------------


def test_a_cut_that_found_no_text_is_spent_on_the_next_stream() -> None:
    some = plan("model:cut=text*1")
    fault = some.next(MODEL)
    assert fault is not None
    assert not some.active
    some.give_back(fault)
    assert some.active
    assert strikes(some, MODEL, 2) == ["cut", "-"]


def test_a_fault_of_an_old_plan_gives_nothing_to_the_new_one() -> None:
    some = plan("model:cut=text*1")
    fault = some.next(MODEL)
    assert fault is not None
    some.replace([parse_fault("model:cut=text*1")])
    assert strikes(some, MODEL, 1) == ["cut"]
    some.give_back(fault)
    assert strikes(some, MODEL, 1) == ["-"]


def test_one_of_two_equal_specs_gets_its_own_back() -> None:
    some = plan("model:cut*1", "model:cut*1")
    first, second = some.next(MODEL), some.next(MODEL)
    assert first is not None
    assert second is not None
    some.give_back(second)
    assert strikes(some, MODEL, 2) == ["cut", "-"]


def test_a_fault_made_by_hand_gives_nothing_back() -> None:
    some = plan("model:cut*1")
    some.next(MODEL)
    some.give_back(Fault("cut", "text", MODEL, "model:cut*1"))
    assert not some.active


# --- changing the plan -----------------------------------------------------------------------------------


def test_a_plan_can_grow_be_replaced_and_be_cleared() -> None:
    some = plan("model:reset*2")
    assert strikes(some, MODEL, 1) == ["reset"]
    some.add(parse_fault("model:html*1"))
    assert strikes(some, MODEL, 3) == ["reset", "html", "-"]
    some.replace([parse_fault("model:reset*2")])
    assert strikes(some, MODEL, 3) == ["reset", "reset", "-"]
    some.clear()
    assert (some.specs, some.active, some.next(MODEL)) == ((), False, None)


# --- one seed, one run -----------------------------------------------------------------------------------


def test_one_seed_decides_the_same_and_another_otherwise() -> None:
    specs = ("model:reset@0.4", "get_weather:error@0.5")
    same = [strikes(plan(*specs, seed=7), MODEL, 60) for _ in range(2)]
    assert same[0] == same[1]
    assert strikes(plan(*specs, seed=8), MODEL, 60) != same[0]


def test_a_dependency_is_decided_alike_whatever_runs_beside_it() -> None:
    def run(order: list[str]) -> dict[str, list[str]]:
        some = plan("*:error@0.4", "model:reset@0.3", seed=3)
        seen: dict[str, list[str]] = {target: [] for target in targets}
        for target in order:
            seen[target] += strikes(some, target, 1)
        return seen

    targets = [MODEL, "model.google.gemini", WEATHER, "disk"]
    order = targets * 50
    expected = run(order)
    for seed in range(5):
        random.Random(seed).shuffle(order)
        assert run(order) == expected
    assert expected[MODEL] != expected["model.google.gemini"]


def test_equal_specs_draw_from_streams_of_their_own() -> None:
    some = strikes(plan("model:reset@0.5", "model:reset@0.5"), MODEL, 1000).count("reset")
    assert 680 < some < 820  # 1 - 0.5 * 0.5; with a shared stream it would differ


def test_counts_are_exact_under_threads() -> None:
    some, struck = plan("model:reset*500", "model:html*100"), Counter[str]()
    lock = threading.Lock()

    def work() -> None:
        mine = Counter(strikes(some, MODEL, 200))
        with lock:
            struck.update(mine)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert struck == {"reset": 500, "html": 100, "-": 1000}
