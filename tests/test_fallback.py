"""The chain: who is asked next, who is not, and what is said when nobody is left."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from deadline import NEVER, Deadline
from errors import (
    VERDICTS,
    Advice,
    AgentError,
    AttemptTimedOut,
    ChainExhausted,
    CircuitOpen,
    DeadlineExceeded,
    ErrorType,
    classify_error,
)
from events import FellBack
from fallback import Choice, fallback, falling_back
from flow import Flow, Pause
from tests.support_flow import World

HOPS = (Advice.RETRY, Advice.NEXT, Advice.HOP, Advice.NEXT_PROVIDER)


def down(reason: str = "server_error", message: str = "", **more: Any) -> AgentError:
    return AgentError(message or f"injected {reason}", reason=reason, **more)


class Chain:
    """Choices that answer their name or raise; remembers who was asked and what they were told."""

    def __init__(self) -> None:
        self.world = World()
        self.asked: list[tuple[str, bool]] = []

    def choice(
        self,
        name: str,
        error: Exception | None = None,
        *,
        takes_s: float = 0.0,
        ready: Callable[[], bool] = lambda: True,
        last_resort: bool = False,
    ) -> Choice[str]:
        def flow(has_next: bool) -> Flow[str]:
            self.asked.append((name, has_next))
            yield Pause(takes_s)
            if error is not None:
                raise error
            return name

        return Choice(name, name.partition(":")[0], flow, ready, last_resort)

    def ask(self, *choices: Choice[str], deadline: Deadline = NEVER) -> str:
        return self.world.run(falling_back(choices, deadline=deadline, now=self.world.now))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.asked]


def test_the_first_answer_is_the_answer() -> None:
    chain = Chain()
    assert chain.ask(chain.choice("a:1"), chain.choice("b:1")) == "a:1"
    assert (chain.names, chain.world.heard) == (["a:1"], [])


@pytest.mark.parametrize("reason", [r for r, v in VERDICTS.items() if v.advice in HOPS])
def test_what_another_may_do_better_is_asked_of_the_next(reason: str) -> None:
    chain = Chain()
    assert chain.ask(chain.choice("a:1", down(reason)), chain.choice("b:1")) == "b:1"
    assert chain.world.of(FellBack) == [FellBack("a:1", "b:1", reason, f"injected {reason}")]


@pytest.mark.parametrize("reason", [r for r, v in VERDICTS.items() if v.advice not in HOPS])
def test_what_somebody_must_mend_is_said_at_once_and_never_hidden_by_a_fallback(reason: str) -> None:
    chain, error = Chain(), down(reason)
    with pytest.raises(AgentError) as caught:
        chain.ask(chain.choice("a:1", error), chain.choice("b:1"), chain.choice("c", last_resort=True))
    assert caught.value is error
    assert (chain.names, chain.world.heard) == (["a:1"], [])


def test_the_policy_is_not_vacuous() -> None:
    stops = {r for r, v in VERDICTS.items() if v.advice not in HOPS}
    assert {"bad_request", "authentication", "permission", "tls", "proxy", "too_large", "bad_input"} <= stops


def test_an_empty_purse_skips_everything_of_the_same_provider() -> None:
    chain = Chain()
    answer = chain.ask(chain.choice("a:1", down("billing")), chain.choice("a:2"), chain.choice("b:1"))
    assert (answer, chain.names) == ("b:1", ["a:1", "b:1"])
    assert chain.world.of(FellBack)[0].to == "b:1"


def test_an_empty_purse_with_nobody_else_is_said_as_it_came() -> None:
    chain, error = Chain(), down("billing")
    with pytest.raises(AgentError) as caught:
        chain.ask(chain.choice("a:1", error), chain.choice("a:2"))
    assert caught.value is error
    assert chain.world.of(FellBack) == [FellBack("a:1", "", "billing", "injected billing")]


def test_a_missing_model_is_asked_of_another_model_of_the_same_provider() -> None:
    chain = Chain()
    assert chain.ask(chain.choice("a:1", down("not_found")), chain.choice("a:2")) == "a:2"


def test_a_choice_is_told_whether_a_later_one_is_ready() -> None:
    chain = Chain()
    shut = chain.choice("b:1", down("rejected"), ready=lambda: False)
    chain.ask(chain.choice("a:1", down()), shut, chain.choice("c:1", down()), chain.choice("d:1"))
    assert chain.asked == [("a:1", True), ("b:1", True), ("c:1", True), ("d:1", False)]
    chain = Chain()
    with pytest.raises(ChainExhausted):
        chain.ask(chain.choice("a:1", down()), chain.choice("b:1", down("rejected"), ready=lambda: False))
    assert chain.asked == [("a:1", False), ("b:1", False)]


def test_readiness_is_asked_when_the_turn_comes_not_when_the_chain_begins() -> None:
    chain = Chain()
    healed: list[bool] = []

    def ready() -> bool:
        healed.append(True)
        return len(healed) > 1

    last = chain.choice("c:1", ready=ready)
    shut = chain.choice("b:1", down("rejected"), ready=lambda: False)
    chain.ask(chain.choice("a:1", down()), shut, last)
    assert chain.asked == [("a:1", False), ("b:1", True), ("c:1", False)]


def test_a_last_resort_is_no_successor_but_answers_when_all_else_failed() -> None:
    chain = Chain()
    answer = chain.ask(chain.choice("a:1", down()), chain.choice("a:cache", last_resort=True))
    assert (answer, chain.asked) == ("a:cache", [("a:1", False), ("a:cache", False)])


def test_a_last_resort_is_asked_when_the_time_is_over_and_others_are_not() -> None:
    chain = Chain()
    answer = chain.ask(
        chain.choice("a:1", AttemptTimedOut(10), takes_s=10),
        chain.choice("b:1"),
        chain.choice("cache", last_resort=True),
        deadline=Deadline(10),
    )
    assert (answer, chain.names) == ("cache", ["a:1", "cache"])


def test_a_last_resort_survives_an_empty_purse_of_its_own_provider() -> None:
    chain = Chain()
    answer = chain.ask(chain.choice("a:1", down("billing")), chain.choice("a:cache", last_resort=True))
    assert answer == "a:cache"


def test_when_all_fail_the_error_says_what_each_said() -> None:
    chain = Chain()
    busy = down("overloaded", "overloaded (529)")
    shut = CircuitOpen("circuit open, next try in 12 s", retry_after_s=12)
    with pytest.raises(ChainExhausted) as caught:
        chain.ask(chain.choice("anthropic:a", busy), chain.choice("anthropic:b", shut))
    assert str(caught.value) == ("anthropic:a said overloaded (529); anthropic:b said circuit open, next try in 12 s")
    assert caught.value.causes == (busy, shut)
    assert caught.value.retry_after_s == 12
    assert chain.world.of(FellBack)[-1].to == ""


@pytest.mark.parametrize(("last", "kind"), [("server_error", ErrorType.TRANSIENT), ("not_found", ErrorType.FATAL)])
def test_an_exhausted_chain_has_the_kind_of_its_last_cause(last: str, kind: ErrorType) -> None:
    chain = Chain()
    with pytest.raises(ChainExhausted) as caught:
        chain.ask(chain.choice("a:1", down()), chain.choice("b:1", down(last)))
    assert classify_error(caught.value) is kind


def test_the_error_of_an_only_choice_comes_as_it_is() -> None:
    chain, error = Chain(), down()
    with pytest.raises(AgentError) as caught:
        chain.ask(chain.choice("a:1", error))
    assert caught.value is error
    assert chain.world.heard == []


def test_a_hop_to_a_refused_key_is_raised_as_that() -> None:
    chain = Chain()
    with pytest.raises(AgentError) as caught:
        chain.ask(chain.choice("a:1", down()), chain.choice("b:1", down("authentication")), chain.choice("c:1"))
    assert caught.value.reason == "authentication"
    assert chain.names == ["a:1", "b:1"]


def test_nobody_is_asked_after_the_deadline_and_the_error_names_the_real_cause() -> None:
    chain = Chain()
    busy = down("overloaded", "overloaded (529)", retry_after_s=7)
    with pytest.raises(DeadlineExceeded) as caught:
        chain.ask(chain.choice("a:1", busy, takes_s=12), chain.choice("b:1"), deadline=Deadline(12.1))
    assert str(caught.value) == "gave up after 12 s: a:1 said overloaded (529)"
    assert caught.value.causes == (busy,)
    assert (caught.value.kind, caught.value.retry_after_s) == (ErrorType.TRANSIENT, 7)
    assert chain.names == ["a:1"]


def test_a_deadline_inside_a_choice_is_unfolded_to_what_ended_it() -> None:
    chain = Chain()
    root = down("overloaded", "overloaded (529)")
    inner = DeadlineExceeded("gave up after 3 s: overloaded (529), 2 tries", (root,))
    with pytest.raises(DeadlineExceeded) as caught:
        chain.ask(
            chain.choice("a:1", down(message="server error (500)"), takes_s=9),
            chain.choice("b:1", inner, takes_s=3),
            deadline=Deadline(12),
        )
    assert str(caught.value) == "gave up after 12 s: a:1 said server error (500); b:1 said overloaded (529)"
    assert caught.value.causes[-1] is root


def test_the_healed_first_choice_is_used_again_by_the_next_question() -> None:
    chain = Chain()
    chain.ask(chain.choice("a:1", down()), chain.choice("b:1"))
    assert chain.ask(chain.choice("a:1"), chain.choice("b:1")) == "a:1"


def test_a_cancelled_choice_is_not_a_failure() -> None:
    chain = Chain()
    task = chain.world.start(
        falling_back([chain.choice("a:1", takes_s=5), chain.choice("b:1")], deadline=NEVER, now=chain.world.now)
    )
    chain.world.go(until_s=1)
    task.close()
    chain.world.go()
    assert (chain.names, chain.world.heard) == (["a:1"], [])


def test_a_chain_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Chain().ask()


# --- the skin --------------------------------------------------------------------------------------------


def saying(word: str, error: Exception | None = None) -> Callable[[str], str]:
    def say(name: str) -> str:
        if error is not None:
            raise error
        return f"{word} {name}"

    return say


def saying_later(word: str, error: Exception | None = None) -> Callable[[str], Coroutine[Any, Any, str]]:
    async def say(name: str) -> str:
        await asyncio.sleep(0)
        return saying(word, error)(name)

    return say


def test_the_skin_asks_plain_functions_in_order() -> None:
    assert fallback(saying("a"), saying("b"))("x") == "a x"
    assert fallback(saying("a", ConnectionError()), saying("b", TimeoutError()), saying("c"))("x") == "c x"


def test_the_skin_asks_async_and_plain_functions_together() -> None:
    ask: Any = fallback(saying_later("a", ConnectionError()), saying("b", TimeoutError()), saying_later("c"))
    assert asyncio.run(ask("x")) == "c x"
    assert inspect.iscoroutinefunction(ask)


@pytest.mark.parametrize("say", [saying, saying_later])
def test_the_skin_never_hides_a_bug_unless_told(say: Any) -> None:
    def ask(*functions: Any, **options: Any) -> Any:
        chain: Callable[[str], Any] = fallback(*functions, **options)
        answer = chain("x")
        return asyncio.run(answer) if inspect.iscoroutine(answer) else answer

    bug = KeyError("bug")
    with pytest.raises(KeyError) as caught:
        ask(say("a", bug), say("b"))
    assert caught.value is bug
    assert ask(say("a", bug), say("b"), on=(KeyError, OSError)) == "b x"
    with pytest.raises(ChainExhausted, match=r"said 'bug'; .* said down"):
        ask(say("a", bug), say("b", KeyError("bug")), say("c", AgentError("down")), on=Exception)
    with pytest.raises(KeyError):
        ask(say("a", bug), on=KeyError)


def test_the_skin_lets_cancellation_pass() -> None:
    async def scenario() -> None:
        async def hang(name: str) -> str:
            await asyncio.Event().wait()
            return name

        task = asyncio.ensure_future(fallback(hang, saying("b"), on=Exception)("x"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
