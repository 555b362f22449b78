"""Which models are asked, in which order, and what one of them may be shown.  (floor 4)

A chain is written `anthropic:claude-sonnet-5-5,anthropic:claude-haiku-5-5`: links, tried in
order. `asking` is the flow behind every question to a model: a fallback over the links,
each behind the guard of its own dependency. It performs nothing itself; one attempt on one
link is the effect `Converse`, performed by `models/claude.py` or by a simulation.

A model reads back only its own signed thinking: another one's signature means nothing to
it and the API would refuse the whole history. So a link is shown the history without the
thinking of others, while the history itself keeps it for the day its maker is back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from deadline import Deadline
from errors import ConfigurationError
from fallback import Choice, falling_back
from flow import Effect, Flow, within
from guard import Guards
from messages import Message, ModelRequest, Reply, Text, Thinking
from safe_text import one_line

ALLOWED = "anthropic:MODEL or practice, separated by commas"
_LATER = ("google", "local")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@\-]{0,127}")


@dataclass(frozen=True, slots=True)
class Link:
    """One model of a chain. `base_url` is None for the provider's own, or the one from the settings."""

    provider: str
    model: str
    base_url: str | None = None

    @property
    def name(self) -> str:
        """As it is written in a chain: `anthropic:claude-sonnet-5-5`, `practice`."""
        return self.provider if self.provider == "practice" else f"{self.provider}:{self.model}"

    @property
    def dependency(self) -> str:
        """As faults, breakers, settings and metrics name it: `model.anthropic.claude-sonnet-5-5`."""
        return "model.practice" if self.provider == "practice" else f"model.{self.provider}.{self.model}"


PRACTICE = Link("practice", "practice")


def parse_chain(text: str, setting: str = "MODEL_CHAIN") -> tuple[Link, ...]:
    """Read a chain such as `anthropic:claude-sonnet-5-5,practice`.

    Args:
        text: the chain.
        setting: where it came from, for the error: a variable or an option.

    Raises ConfigurationError that names the setting, what is wrong and what is allowed.
    """
    links: list[Link] = []
    for word in text.split(","):
        link = _parse_link(word.strip(), text, setting)
        if link in links:
            raise _wrong(setting, text, f"{link.name} is in it twice")
        links.append(link)
    return tuple(links)


def _parse_link(word: str, text: str, setting: str) -> Link:
    provider, colon, model = word.partition(":")
    if word == "practice":
        return PRACTICE
    if provider == "anthropic" and _MODEL_NAME.fullmatch(model):
        return Link(provider, model)
    if not word:
        raise _wrong(setting, text, "a model is missing" if text.strip(" ,") else "it is empty")
    if provider == "practice":
        raise _wrong(setting, text, "practice takes no model")
    if provider in _LATER:
        raise _wrong(setting, text, f"the provider {provider} is not built yet")
    if provider == "anthropic":
        raise _wrong(setting, text, f'"{model}" is no name of a model')
    if not colon and word.startswith("claude-"):
        raise _wrong(setting, text, f'"{word}" has no provider: did you mean anthropic:{word}?')
    raise _wrong(setting, text, f'unknown provider "{provider}"')


def _wrong(setting: str, text: str, why: str) -> ConfigurationError:
    return ConfigurationError(f'{setting}: "{one_line(text)}": {one_line(why)}', what_now=f"Allowed: {ALLOWED}.")


@dataclass(frozen=True, slots=True)
class Converse(Effect):
    """One attempt to have `request` answered by `link`. Answered by a Reply; raises AgentError."""

    request: ModelRequest
    link: Link


def converse(request: ModelRequest, link: Link) -> Flow[Reply]:
    """Have one model answer, once."""
    reply: Reply = yield Converse(request, link)
    return reply


def asking(
    request: ModelRequest,
    links: Sequence[Link],
    guards: Guards,
    *,
    deadline: Deadline,
    now: Callable[[], float],
    llm_timeout_s: float,
) -> Flow[Reply]:
    """Have the first model of the chain that can answer do so.

    Args:
        request: what is asked; each link is shown what it may read of it.
        links: the chain, at least one link.
        guards: the guard of each dependency.
        deadline: the end of the question. A healthy answer may take all that is left of it.
        now: the monotonic clock.
        llm_timeout_s: the longest silence of a model, in seconds.

    Raises what the last model failed with, or ChainExhausted or DeadlineExceeded saying what each said.
    """

    def choice(link: Link) -> Choice[Reply]:
        shown, guard = readable_by(request, link), guards(link.dependency)

        def trying(has_next: bool) -> Flow[Reply]:
            guarded = guard.guarding(
                lambda number: converse(shown, link),
                deadline=deadline,
                attempt_s=lambda: deadline.left_s(now()),
                silence_s=llm_timeout_s,
                has_next=has_next,
            )
            return within({"link": link.name}, guarded)

        return Choice(link.name, link.provider, trying, guard.is_ready)

    return (yield from falling_back([choice(link) for link in links], deadline=deadline, now=now))


def readable_by(request: ModelRequest, link: Link) -> ModelRequest:
    """The request without the thinking of other models."""
    messages = tuple(_without_foreign_thinking(message, link) for message in request.messages)
    return request if messages == request.messages else replace(request, messages=messages)


def _without_foreign_thinking(message: Message, link: Link) -> Message:
    blocks = tuple(
        block
        for block in message.blocks
        if not isinstance(block, Thinking) or block.model in ("", link.name)  # "" was made by hand
    )
    if len(blocks) == len(message.blocks):
        return message
    return replace(message, blocks=blocks or (Text("(no words)"),))
