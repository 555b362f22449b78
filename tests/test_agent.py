"""The whole agent, wired as the programs wire it: practice model, real SDK, real files, faults on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config import Settings, read_settings
from errors import ConfigurationError
from events import FaultInjected
from tests.fake_web import FakeWeb, said, wikipedia
from tests.support import Heard
from wiring import Answer, AsyncAgent, BlockingAgent, preload

SUM = "What is 15 multiplied by 23?"


@pytest.fixture(autouse=True, scope="module")
def _sdk_loaded() -> None:
    preload()


class Runner:
    """Asks one of the two agents; remembers its events."""

    def __init__(self, kind: str, settings: Settings) -> None:
        self.kind, self.settings = kind, settings
        self.heard = Heard()

    def ask(self, *questions: str, faults: tuple[str, ...] = (), seed: int = 1, **settings: Any) -> list[Answer]:
        parts: dict[str, Any] = {"fault_specs": faults, "seed": seed, "listeners": [self.heard], "offline": True}
        chosen = replace(self.settings, **settings)
        if self.kind == "blocking":
            agent = BlockingAgent(chosen, **parts)
            try:
                return [agent.ask(question) for question in questions]
            finally:
                agent.close()
        return asyncio.run(self._ask_async(chosen, parts, questions))

    @staticmethod
    async def _ask_async(settings: Settings, parts: dict[str, Any], questions: tuple[str, ...]) -> list[Answer]:
        agent = AsyncAgent(settings, **parts)
        try:
            return [await agent.ask(question) for question in questions]
        finally:
            await agent.aclose()

    def one(self, question: str, *faults: str, **settings: Any) -> Answer:
        return self.ask(question, faults=faults, **settings)[0]


@pytest.fixture(params=["asyncio", "blocking"])
def agent(request: pytest.FixtureRequest, tmp_path: Path) -> Runner:
    settings = read_settings(
        {
            "NOTES_DIR": str(tmp_path / "notes"),
            "STATE_DIR": str(tmp_path / "state"),
            "RETRY_BASE_DELAY": "0.01",
            "LLM_TIMEOUT": "0.5",
            "TOTAL_TIMEOUT": "20",
            "RATE_LIMIT_PER_MINUTE": "0",
        }
    )
    return Runner(request.param, settings)


def test_a_sum(agent: Runner) -> None:
    answer = agent.one(SUM)
    assert answer.report.status == "ok"
    assert "345" in answer.report.text
    assert (answer.report.model, answer.report.cost_usd, answer.model_attempts) == ("practice", 0.0, 2)


@pytest.mark.parametrize(
    "fault",
    [
        "model:overloaded*2",
        "model:cut=text*1",
        "model:cut=tool*1",
        "model:cut=start*1",
        "model:cut=end*1",
        "model:stall=text*1",
        "model:stall=tool*1",
        "model:rate_limit=0.01*2",
        "model:html*1",
        "model:garbage*1",
        "model:bad_args*1",
        "model:bad_tool*1",
        "model:server_error*3",
        "model:refused*2",
        "model:reset*2",
        "model:slow=0.05*1",
        "calculator:slow=0.05*1",
    ],
)
def test_a_passing_fault_costs_a_try_and_not_the_answer(agent: Runner, fault: str) -> None:
    answer = agent.one(SUM, fault)
    assert answer.report.error is None
    assert answer.report.status == "ok"
    assert "345" in answer.report.text
    assert agent.heard.of(FaultInjected), "the fault never struck"


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        ("model:auth", "key"),
        ("model:bad_request", "refused"),
        ("model:refusal", "declined"),
        ("model:loop", "circles"),
        ("model:overloaded", "overloaded"),
        ("calculator:error", "calculator"),
    ],
)
def test_a_lasting_fault_ends_in_one_clear_sentence(agent: Runner, fault: str, word: str) -> None:
    answer = agent.one(SUM, fault)
    assert answer.report.status == "failed"
    assert answer.report.error is not None
    assert word in answer.report.error.message


def test_a_refused_key_is_not_tried_twice(agent: Runner) -> None:
    assert agent.one(SUM, "model:auth").model_attempts == 1


@pytest.mark.parametrize("fault", ["model:hang", "model:stall=text", "calculator:hang"])
def test_whatever_hangs_the_question_ends_by_its_deadline(agent: Runner, fault: str) -> None:
    started_s = time.monotonic()
    answer = agent.one(SUM, fault, total_timeout_s=1.0, llm_timeout_s=0.4, tool_timeout_s=0.6)
    assert time.monotonic() - started_s < 1.0 + 0.25 + 0.5  # promise B1, and half a second to build an agent
    assert answer.report.duration_ms < 1_250
    assert answer.report.status == "failed"


def test_text_cut_by_max_tokens_is_degraded(agent: Runner) -> None:
    answer = agent.one("hello", "model:max_tokens*1")
    assert answer.report.status == "degraded"
    assert "MAX_TOKENS" in answer.report.text


def test_a_missing_optional_tool_leaves_the_rest_standing(agent: Runner) -> None:
    answer = agent.one("What's the weather in Seattle and what's 15 * 23?", "get_weather:error")
    assert (answer.report.status, answer.report.degraded) == ("degraded", ("get_weather",))
    assert "345" in answer.report.text
    assert "get_weather is missing" in answer.report.text


@pytest.mark.parametrize(
    "fault", ["model:cut=text*1", "model:cut=tool*1", "save_note:error*1", "disk:full*1", "model:overloaded*1"]
)
def test_one_note_saved_twice_through_faults_is_one_file(agent: Runner, fault: str) -> None:
    answers = agent.ask("save a note: buy milk", "save a note: buy milk", faults=(fault,))
    assert answers[-1].report.status == "ok"
    notes = list(agent.settings.notes_dir.iterdir())
    assert [note.read_text() for note in notes] == ["buy milk"]


def test_thirty_percent_of_429_costs_next_to_no_answer(agent: Runner) -> None:
    answers = agent.ask(*[SUM] * 50, faults=("model:rate_limit@0.3",), retry_base_delay_s=0.001)
    assert sum(answer.report.status == "ok" for answer in answers) >= 48


def test_the_same_seed_strikes_the_same_way(agent: Runner) -> None:
    def strikes() -> list[int]:
        answers = agent.ask(*[SUM] * 8, faults=("model:overloaded@0.4",), retry_base_delay_s=0.001, seed=7)
        return [answer.model_attempts for answer in answers]

    assert strikes() == strikes()


def test_five_failures_open_a_breaker_and_it_heals_by_itself(agent: Runner) -> None:
    with FakeWeb() as web:
        web.on("/w/rest.php/v1/search/page", said(wikipedia(("Otter", "otters", "an <b>otter</b>"))))
        settings = replace(agent.settings, wikipedia_url=web.url, max_retries=0, breaker_recovery_timeout_s=0.3)
        if agent.kind == "blocking":
            blocking = BlockingAgent(settings, offline=True, seed=1)
            _open_and_heal(blocking.ask, blocking, time.sleep)
            blocking.close()
            return

        async def run() -> None:
            asynchronous = AsyncAgent(settings, offline=True, seed=1)
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(
                None,
                _open_and_heal,
                lambda question: asyncio.run_coroutine_threadsafe(asynchronous.ask(question), loop).result(),
                asynchronous,
                time.sleep,
            )
            await asynchronous.aclose()

        asyncio.run(run())


def _open_and_heal(ask: Callable[[str], Answer], agent: Any, sleep: Callable[[float], None]) -> None:
    from faults import parse_fault

    search = "search the web for otters"
    agent.plan.replace([parse_fault("web_search:error", agent.known_fault_targets)])
    for _ in range(5):
        assert ask(search).report.status == "degraded"
    [snapshot] = [one for one in agent.guards.snapshots() if one.name == "web_search.wikipedia"]
    assert snapshot.state.value == "open"
    started_s = time.monotonic()
    assert ask(search).report.status == "degraded"
    assert time.monotonic() - started_s < 0.3  # at once: nothing was tried
    agent.plan.clear()
    sleep(0.3)  # the open time itself is the subject
    assert ask(search).report.status == "ok"


def test_every_question_leaves_a_trace_that_can_be_found(agent: Runner) -> None:
    from stores.traces import TraceStore

    answer = agent.one(SUM, "model:overloaded*1")
    trace = TraceStore(agent.settings.state_dir).get(answer.trace_id)
    assert trace is not None
    assert trace["status"] == "ok"


def test_a_chain_without_a_key_is_a_configuration_error(tmp_path: Path) -> None:
    settings = read_settings({"STATE_DIR": str(tmp_path)})
    with pytest.raises(ConfigurationError, match="ANTHROPIC_API_KEY"):
        BlockingAgent(settings)


def test_an_unknown_fault_target_names_the_known_ones(tmp_path: Path) -> None:
    settings = read_settings({"STATE_DIR": str(tmp_path)})
    with pytest.raises(ConfigurationError, match="get_weather"):
        BlockingAgent(settings, offline=True, fault_specs=["get_wether:error"])


def test_a_breaker_setting_for_something_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    settings = read_settings({"STATE_DIR": str(tmp_path), "BREAKERS": "web_serch=3/30"})
    with pytest.raises(ConfigurationError, match="web_serch"):
        BlockingAgent(settings, offline=True)
    fine = read_settings({"STATE_DIR": str(tmp_path), "BREAKERS": "web_search=3/30,model.anthropic=5/20"})
    agent = BlockingAgent(fine, offline=True)
    assert agent.guards("web_search.wikipedia").breaker.policy.failure_threshold == 3
    agent.close()
