"""The chain of models: how it is written, who is asked next, what each may read, what it costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import safe_text
from circuit_breaker import BreakerPolicy
from deadline import Deadline
from errors import AgentError, ChainExhausted, CircuitOpen, ConfigurationError
from events import AttemptFailed, AttemptStarted, FellBack
from flow import Flow
from guard import Guards
from messages import Message, ModelRequest, Reply, Text, Thinking, ToolResult, ToolUse, Usage, user
from models.chain import PRACTICE, Converse, Link, asking, converse, parse_chain, readable_by
from models.prices import cost_usd
from tests.support import Doors

SONNET = Link("anthropic", "claude-sonnet-5-5")
HAIKU = Link("anthropic", "claude-haiku-5-5")
QUESTION = ModelRequest("", (user("Hi"),))

# --- as it is written ------------------------------------------------------------------------------------


def test_a_chain_is_read_link_by_link() -> None:
    assert parse_chain("anthropic:claude-sonnet-5-5, anthropic:claude-haiku-5-5 ,practice") == (SONNET, HAIKU, PRACTICE)
    assert parse_chain("anthropic:org/model:7b@x.y") == (Link("anthropic", "org/model:7b@x.y"),)


def test_a_link_has_one_name_for_people_and_one_for_guards() -> None:
    assert (SONNET.name, SONNET.dependency) == ("anthropic:claude-sonnet-5-5", "model.anthropic.claude-sonnet-5-5")
    assert (PRACTICE.name, PRACTICE.dependency) == ("practice", "model.practice")
    assert parse_chain(SONNET.name) == (SONNET,)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty"),
        (" , ", "it is empty"),
        ("practice,", "a model is missing"),
        ("practice,,anthropic:x", "a model is missing"),
        ("anthropic:", '"" is no name of a model'),
        ("anthropic:two words", "no name of a model"),
        ("anthropic:a,anthropic:a", "anthropic:a is in it twice"),
        ("practice,practice", "practice is in it twice"),
        ("claude-sonnet-5-5", "did you mean anthropic:claude-sonnet-5-5?"),
        ("openai:gpt-9", 'unknown provider "openai"'),
        ("Anthropic:x", 'unknown provider "Anthropic"'),
        ("practice:x", "practice takes no model"),
        ("gemini-3.6-flash", "did you mean google:gemini-3.6-flash?"),
        ("google:", '"" is no name of a model'),
        ("google:models/gemini-3.6-flash", "no name of a model"),
        ("google:gemini?key=x", "no name of a model"),
        ("local:qwen3:8b", "does not say where"),
        ("local:@http://localhost:1", '"" is no name of a model'),
        ("local:two words@http://localhost:1", "no name of a model"),
        ("local:qwen@", "nothing is no URL"),
        ("local:qwen@localhost:11434", "no URL of a server"),
        ("local:qwen@ftp://localhost", "no URL of a server"),
        ("local:qwen@http://", "no URL of a server"),
        ("local:qwen@http://localhost:99999", "no URL of a server"),
        ("local:qwen@http://localhost:0", "no URL of a server"),
        ("local:qwen@http://local host", "no URL of a server"),
        ("local:qwen@http://localhost/?a=b", "no URL of a server"),
        ("local:qwen@http://a,local:qwen@http://b", "local:qwen is in it twice"),
    ],
)
def test_a_chain_that_is_wrong_says_where_it_stands_what_is_wrong_and_what_is_allowed(text: str, why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_chain(text, "--model")
    assert why in str(caught.value)
    assert str(caught.value).startswith("--model: ")
    assert "anthropic:MODEL, google:MODEL, local:MODEL@URL or practice" in caught.value.what_now


@pytest.mark.parametrize(
    ("text", "model", "base_url"),
    [
        ("local:qwen3:8b@http://localhost:11434", "qwen3:8b", "http://localhost:11434"),
        ("local:hf.co/org/model-GGUF:Q4_K_M@http://[::1]:8080/", "hf.co/org/model-GGUF:Q4_K_M", "http://[::1]:8080"),
        ("local:m@https://gateway.example/llm/v1/", "m", "https://gateway.example/llm"),
        ("local:m@http://me:hunter2@host", "m", "http://me:hunter2@host"),
    ],
)
def test_a_local_link_names_a_model_and_a_server(text: str, model: str, base_url: str) -> None:
    (link,) = parse_chain(text)
    assert (link.provider, link.model, link.base_url) == ("local", model, base_url)
    assert link.dependency == f"model.local.{model}"


def test_a_link_is_written_as_it_is_read() -> None:
    for text in ("google:gemini-3.6-flash", "local:qwen3:8b@http://localhost:11434"):
        assert [link.name for link in parse_chain(text)] == [text]


def test_a_password_in_a_chain_is_not_repeated() -> None:
    for text in ("local:m@ftp://me:hunter2@host", "local:m@http://me:hunter2@host,x:y"):
        with pytest.raises(ConfigurationError) as caught:
            parse_chain(text)
        assert "hunter2" not in str(caught.value)
    assert "hunter2" not in parse_chain("local:m@http://me:hunter2@host")[0].name


@pytest.mark.parametrize(
    "url",
    [
        "me:swordfish@host", "//me:swordfish@host", "http:/me:swordfish@host", "http//me:swordfish@host",
        "http://me:sword/fish@host:1", "http://me:sword,fish@host", "me:sword@fish@host",
    ],
)  # fmt: skip
@pytest.mark.parametrize("provider", ["local", "nobody"])
def test_a_password_is_not_repeated_either_where_its_url_is_none(
    url: str, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safe_text, "_known_secrets", [])  # by its place alone, not because it was seen before
    with pytest.raises(ConfigurationError) as caught:
        parse_chain(f"google:gemini-3.6-flash,{provider}:m@{url}")
    assert "sword" not in str(caught.value)
    assert "google:gemini-3.6-flash" in str(caught.value)


# --- who is asked ----------------------------------------------------------------------------------------


class Models:
    """What each model says to each attempt, in order; the last one repeats."""

    def __init__(self, **said: list[Any]) -> None:
        self.said = {name.replace("_", "-"): list(answers) for name, answers in said.items()}
        self.asked: list[str] = []
        self.shown: list[ModelRequest] = []

    def __call__(self, effect: Converse) -> Reply:
        name = effect.link.model
        self.asked.append(name)
        self.shown.append(effect.request)
        kind = next(kind for kind in self.said if kind in name)
        answers = self.said[kind]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return Reply((Text(answer),), "end_turn", link=effect.link.name)


def failed(reason: str, **more: Any) -> AgentError:
    return AgentError(f"{reason} it was", reason=reason, **more)


def ask(
    doors: Doors, models: Callable[[Converse], Reply], links: tuple[Link, ...] = (SONNET, HAIKU), **policies: Any
) -> Any:
    doors.world[Converse] = models
    now = Clock()
    guards = Guards(now=now, draws=lambda name: lambda: 0.0, **policies)
    return doors.run(asking(QUESTION, links, guards, deadline=Deadline.after(now(), 60), now=now, llm_timeout_s=30))


class Clock:
    """Time stands still: nothing here is about waiting."""

    def __call__(self) -> float:
        return 100.0


def test_the_first_model_that_answers_is_the_answer(doors: Doors) -> None:
    models = Models(sonnet=["Hello"], haiku=["Hi"])
    assert ask(doors, models).text == "Hello"
    assert models.asked == [SONNET.model]
    assert doors.heard.of(FellBack) == []


def test_every_event_of_an_attempt_tells_its_link(doors: Doors) -> None:
    ask(doors, Models(sonnet=[failed("overloaded")], haiku=["Hi"]))
    links = [stamped.scope.get("link") for stamped in doors.heard.stamped if isinstance(stamped.event, AttemptStarted)]
    assert links == [SONNET.name, HAIKU.name]


def test_an_overloaded_model_is_left_at_once_for_the_next(doors: Doors) -> None:
    models = Models(sonnet=[failed("overloaded")], haiku=["Hi"])
    assert ask(doors, models).text == "Hi"
    assert models.asked == [SONNET.model, HAIKU.model]
    (hop,) = doors.heard.of(FellBack)
    assert (hop.source, hop.to, hop.reason) == (SONNET.name, HAIKU.name, "overloaded")


@pytest.mark.parametrize("reason", ["server_error", "connection", "protocol"])
def test_a_passing_failure_is_retried_once_before_the_next_is_asked(doors: Doors, reason: str) -> None:
    models = Models(sonnet=[failed(reason)], haiku=["Hi"])
    assert ask(doors, models).text == "Hi"
    assert models.asked == [SONNET.model, SONNET.model, HAIKU.model]


@pytest.mark.parametrize("reason", ["authentication", "permission", "bad_request", "tls"])
def test_a_refused_key_or_request_never_falls_back(doors: Doors, reason: str) -> None:
    models = Models(sonnet=[failed(reason)], haiku=["Hi"])
    with pytest.raises(AgentError) as caught:
        ask(doors, models)
    assert (caught.value.reason, models.asked) == (reason, [SONNET.model])


def test_an_empty_purse_skips_the_models_of_the_same_account(doors: Doors) -> None:
    models = Models(sonnet=[failed("billing")], haiku=["Hi"], practice=["I am here"])
    assert ask(doors, models, (SONNET, HAIKU, PRACTICE)).text == "I am here"
    assert models.asked == [SONNET.model, PRACTICE.model]


def test_a_chain_that_fails_says_what_each_said(doors: Doors) -> None:
    models = Models(sonnet=[failed("overloaded")], haiku=[failed("not_found")])
    with pytest.raises(ChainExhausted) as caught:
        ask(doors, models)
    for words in (SONNET.name, "overloaded it was", HAIKU.name, "not_found it was"):
        assert words in str(caught.value)


def test_a_model_whose_breaker_is_open_is_skipped_without_an_attempt(doors: Doors) -> None:
    models = Models(sonnet=[failed("server_error")], haiku=["Hi"])
    doors.world[Converse] = models
    now = Clock()
    guards = Guards(now=now, draws=lambda name: lambda: 0.0, breaker=BreakerPolicy(failure_threshold=2))

    def twice() -> Flow[str]:
        said = ""
        for _ in range(2):
            deadline = Deadline.after(now(), 60)
            reply = yield from asking(QUESTION, (SONNET, HAIKU), guards, deadline=deadline, now=now, llm_timeout_s=30)
            said += reply.text
        return said

    assert doors.run(twice()) == "HiHi"
    assert models.asked == [SONNET.model, SONNET.model, HAIKU.model, HAIKU.model]


def test_a_single_model_behind_an_open_breaker_says_when_to_come_back(doors: Doors) -> None:
    doors.world[Converse] = Models(sonnet=[failed("server_error")])
    now = Clock()
    guards = Guards(now=now, draws=lambda name: lambda: 0.0, breaker=BreakerPolicy(failure_threshold=1))

    def asked() -> Flow[Reply]:
        return asking(QUESTION, (SONNET,), guards, deadline=Deadline.after(now(), 60), now=now, llm_timeout_s=30)

    with pytest.raises(AgentError, match="server_error it was"):
        doors.run(asked())
    with pytest.raises(CircuitOpen) as caught:
        doors.run(asked())
    assert caught.value.retry_after_s == pytest.approx(60)
    assert len(doors.heard.of(AttemptFailed)) == 1


def test_one_attempt_is_one_effect() -> None:
    flow = converse(QUESTION, SONNET)
    assert next(flow) == Converse(QUESTION, SONNET)


# --- what each may read ----------------------------------------------------------------------------------


def thought(link: str) -> Thinking:
    return Thinking({"type": "thinking", "thinking": link, "signature": "s"}, link)


HISTORY = (
    user("Hi"),
    Message("assistant", (thought(SONNET.name), ToolUse("t1", "calculator", {}))),
    Message("user", (ToolResult("t1", "5"),)),
    Message("assistant", (thought(HAIKU.name), Text("Five."))),
    user("And?"),
)


def test_a_model_is_shown_its_own_thinking_and_nobody_elses() -> None:
    request = ModelRequest("", HISTORY)
    for link in (SONNET, HAIKU, PRACTICE):
        shown = readable_by(request, link)
        blocks = [block for message in shown.messages for block in message.blocks]
        assert [block.model for block in blocks if isinstance(block, Thinking)] == [link.name] * (link != PRACTICE)
        assert len(blocks) == 7 - 2 + (link != PRACTICE)
    assert request.messages == HISTORY


def test_nothing_is_copied_where_nothing_is_left_out() -> None:
    request = ModelRequest("", HISTORY[:3])
    assert readable_by(request, SONNET) is request


def test_a_message_of_thinking_alone_does_not_become_empty() -> None:
    request = ModelRequest("", (user("Hi"), Message("assistant", (thought(SONNET.name),)), user("And?")))
    assert readable_by(request, HAIKU).messages[1].blocks == (Text("(no words)"),)


def test_the_next_model_is_asked_with_what_it_may_read(doors: Doors) -> None:
    models = Models(sonnet=[failed("overloaded")], haiku=["Hi"])
    doors.world[Converse] = models
    now = Clock()
    guards = Guards(now=now, draws=lambda name: lambda: 0.0)
    request = ModelRequest("", HISTORY)
    deadline = Deadline.after(now(), 60)
    doors.run(asking(request, (SONNET, HAIKU), guards, deadline=deadline, now=now, llm_timeout_s=30))
    assert models.shown == [readable_by(request, SONNET), readable_by(request, HAIKU)]


# --- what it costs ---------------------------------------------------------------------------------------

M = 1_000_000


@pytest.mark.parametrize(
    ("model", "usage", "dollars"),
    [
        ("claude-sonnet-5-5", Usage(M, 0, 0, 0), 2.0),
        ("claude-sonnet-5-5", Usage(0, M, 0, 0), 10.0),
        ("claude-sonnet-5-5", Usage(0, 0, M, 0), 0.10),
        ("claude-sonnet-5-5", Usage(0, 0, 0, M), 2.5),
        ("claude-sonnet-5-5-20260801", Usage(M, M), 12.0),
        ("claude-opus-5-5", Usage(0, 0, M, M), 4 * 0.1 + 4 * 1.25),
        ("claude-haiku-5-5", Usage(100_000, M, 0, 0), 0.01 + 0.5),
        ("claude-haiku-5-5", Usage(100_001, M, 0, 0), 0.0500005 + 2.5),
        ("claude-haiku-5-5", Usage(1, 0, 100_000, 0), (1 * 0.5 + 100_000 * 0.05) / M),
        ("practice", Usage(M, M), 0.0),
    ],
)
def test_an_answer_costs_what_the_price_list_says(model: str, usage: Usage, dollars: float) -> None:
    assert cost_usd(model, usage) == pytest.approx(dollars)


@pytest.mark.parametrize("usage", [Usage(), Usage(1, None), Usage(None, 1, 0, 0)])
def test_usage_that_is_not_known_costs_nobody_knows_what(usage: Usage) -> None:
    assert cost_usd("claude-sonnet-5-5", usage) is None


def test_a_model_without_a_price_costs_nobody_knows_what() -> None:
    assert cost_usd("claude-new-9", Usage(1, 1, 0, 0)) is None
