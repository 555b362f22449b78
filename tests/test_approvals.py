"""A person is asked once for exactly one call, is never flooded, and silence is not a yes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import ApprovalAnswered, ApprovalAsked
from flow import Flow
from messages import Message, Text, assistant, user
from oversight.approvals import Answer, ApprovalRequest, Approvals, ApproveMode, AskHuman, digest_of, is_tainted
from tests.support import Doors

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=3), parts, max_size=3),
    max_leaves=6,
)
INPUTS = st.dictionaries(st.text(max_size=4), JSON, max_size=4)


def canonical(value: Any) -> Any:
    """Values that JSON tells apart, told apart in Python too (where True == 1 == 1.0)."""
    if isinstance(value, dict):
        return {key: canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [canonical(item) for item in value]
    return type(value).__name__, repr(value)


@given(INPUTS, INPUTS)
def test_two_inputs_share_a_digest_only_if_they_are_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (digest_of("save", one) == digest_of("save", other)) == (canonical(one) == canonical(other))
    assert digest_of("save", one) != digest_of("send", one)


@given(INPUTS)
def test_the_order_of_keys_changes_nothing(given_input: dict[str, Any]) -> None:
    turned = dict(reversed(given_input.items()))
    assert digest_of("save", given_input) == digest_of("save", turned)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"to": "a"}, {"to": "a "}),
        ({"to": "\u00e9"}, {"to": "e\u0301"}),
        ({"to": "a\u200b"}, {"to": "a"}),
        ({"n": 1}, {"n": "1"}),
        ({"n": 1}, {"n": True}),
        ({"to": "a", "x": None}, {"to": "a"}),
        ({"to": "\ud800"}, {"to": "\udfff"}),
    ],
)
def test_inputs_that_look_alike_have_different_digests(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    assert digest_of("send", one) != digest_of("send", other)


# --- asking ----------------------------------------------------------------------------------------------


def request(text: str) -> ApprovalRequest:
    return ApprovalRequest("save", {"text": text}, "why", digest_of("save", {"text": text}))


class Person:
    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[AskHuman] = []

    def __call__(self, effect: AskHuman) -> Answer:
        self.asked.append(effect)
        return self.answers.pop(0)


def ask(doors: Doors, approvals: Approvals, person: Person, *texts: str) -> list[Answer]:
    doors.world[AskHuman] = person

    def flow() -> Flow[Sequence[Answer]]:
        answers = []
        for text in texts:
            answers.append((yield from approvals.asking(request(text), 7.0)))
        return answers

    answers: list[Answer] = doors.run(flow())
    return answers


def test_the_person_sees_the_exact_input_the_digest_and_how_long_there_is(doors: Doors) -> None:
    person = Person(Answer.YES)
    assert ask(doors, Approvals("ask"), person, "a") == [Answer.YES]
    assert person.asked == [AskHuman(request("a"), 7.0)]
    digest = request("a").digest
    assert doors.heard.events == [
        ApprovalAsked("save", digest, "why"),
        ApprovalAnswered("save", digest, True, "person"),
    ]


def test_identical_requests_are_asked_once_whatever_the_answer(doors: Doors) -> None:
    for answer in Answer:
        person = Person(answer)
        assert ask(doors, Approvals("ask"), person, "a", "a", "a") == [answer] * 3
        assert len(person.asked) == 1


def test_a_flood_of_different_requests_is_refused_unasked(doors: Doors) -> None:
    person = Person(*[Answer.NO] * 5)
    answers = ask(doors, Approvals("ask"), person, *"abcdefgh")
    assert answers == [Answer.NO] * 8
    assert len(person.asked) == 5
    assert [event.by for event in doors.heard.of(ApprovalAnswered)] == ["person"] * 5 + ["limit"] * 3


def test_an_earlier_yes_stays_a_yes_in_a_flood(doors: Doors) -> None:
    person = Person(Answer.YES, *[Answer.NO] * 4)
    assert ask(doors, Approvals("ask"), person, *"abcdefa")[-1] is Answer.YES


def test_nobody_is_told_apart_from_no(doors: Doors) -> None:
    assert ask(doors, Approvals("ask"), Person(Answer.NOBODY, Answer.NO), "a", "b") == [Answer.NOBODY, Answer.NO]
    assert [(event.granted, event.by) for event in doors.heard.of(ApprovalAnswered)] == [
        (False, "nobody"),
        (False, "person"),
    ]


@pytest.mark.parametrize(("mode", "answer"), [("auto", Answer.YES), ("never", Answer.NO)])
def test_a_policy_answers_without_a_person_and_says_that_it_did(
    doors: Doors, mode: ApproveMode, answer: Answer
) -> None:
    person = Person()
    assert ask(doors, Approvals(mode), person, *"aabcdefghij") == [answer] * 11
    assert person.asked == []
    assert {(event.granted, event.by) for event in doors.heard.of(ApprovalAnswered)} == {
        (answer is Answer.YES, "policy")
    }


def test_one_untrusted_message_taints_all_that_is_sent_with_it() -> None:
    clean = [user("q"), assistant("a")]
    assert not is_tainted(clean)
    assert not is_tainted([])
    assert is_tainted([*clean, Message("user", (Text("page"),), untrusted=True), assistant("b")])
