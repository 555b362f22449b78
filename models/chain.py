"""Which models are asked, in which order, and what one of them may be shown.  (floor 4)

A chain is written `anthropic:claude-sonnet-5-5,google:gemini-3.6-flash,local:qwen3:8b@http://localhost:11434`:
links, tried in order. `asking` is the flow behind every question to a model: a fallback over the links,
each behind the guard of its own dependency. It performs nothing itself; one attempt on one
link is the effect `Converse`, performed by whoever speaks the model's language (`providers.py`), or by a
simulation.

A model reads back only its own signed thinking: another one's signature means nothing to
it and the API would refuse the whole history. So a link is shown the history without the
thinking of others, while the history itself keeps it for the day its maker is back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from deadline import Deadline
from errors import ConfigurationError
from fallback import Choice, falling_back
from flow import Effect, Flow, within
from guard import Guards
from messages import Message, ModelRequest, Reply, Text, Thinking
from safe_text import MASK, mask, one_line, register_secret

ALLOWED = "anthropic:MODEL, google:MODEL, local:MODEL@URL or practice, separated by commas"
_MODEL_NAMES = {
    "anthropic": re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@\-]{0,127}"),
    "google": re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{0,127}"),  # it becomes a part of a URL
    "local": re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/\-]{0,127}"),
}


@dataclass(frozen=True, slots=True)
class Link:
    """One model of a chain. `base_url` is its own server's; None for the provider's, or the one from the settings."""

    provider: str
    model: str
    base_url: str | None = None

    @property
    def name(self) -> str:
        """As it is written in a chain, without a password: `anthropic:claude-sonnet-5-5`, `practice`."""
        if self.provider == "practice":
            return self.provider
        at = f"@{mask(self.base_url)}" if self.base_url else ""
        return f"{self.provider}:{self.model}{at}"

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
        if link.dependency in (other.dependency for other in links):  # they would share a breaker and their faults
            raise _wrong(setting, text, f"{link.provider}:{link.model} is in it twice".removeprefix("practice:"))
        links.append(link)
    return tuple(links)


def _parse_link(word: str, text: str, setting: str) -> Link:
    provider, colon, model = word.partition(":")
    if word == "practice":
        return PRACTICE
    if not word:
        raise _wrong(setting, text, "a model is missing" if text.strip(" ,") else "it is empty")
    if provider == "practice":
        raise _wrong(setting, text, "practice takes no model")
    if provider not in _MODEL_NAMES:
        maybe = next((known for known in _MODEL_NAMES if word.startswith(_FAMILIES.get(known, ":"))), None)
        if not colon and maybe:
            raise _wrong(setting, text, f'"{word}" has no provider: did you mean {maybe}:{word}?')
        raise _wrong(setting, text, f'unknown provider "{provider}"')
    base_url = None
    if provider == "local":
        model, at, url = model.partition("@")
        if not at:
            raise _wrong(setting, text, f"{word} does not say where: local:MODEL@URL")
        base_url = _server(url, text, setting)
    if not _MODEL_NAMES[provider].fullmatch(model):
        raise _wrong(setting, text, f'"{model}" is no name of a model')
    return Link(provider, model, base_url)


_FAMILIES = {"anthropic": "claude-", "google": "gemini-"}


def _server(url: str, text: str, setting: str) -> str:
    """The base URL of a local server: what stands before `/v1/messages`, where many would write `/v1` already."""
    try:
        parts = urlsplit(url)
        register_secret(parts.password)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        fits = False
    if not fits or not url.isascii() or not url.isprintable() or {" ", "?", "#"} & set(url):
        found = "what stands behind the @" if url else "nothing"
        raise _wrong(setting, text, f"{found} is no URL of a server: it begins with http:// or https://")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


_BETWEEN_ATS = re.compile(r"(?<=@)([a-z]+://)?[^,]*(?=@)")
"""Where a password may stand in what is no URL, which `mask` knows nothing of: `local:m@me:password@host`."""


def _wrong(setting: str, text: str, why: str) -> ConfigurationError:
    shown, why = (one_line(_BETWEEN_ATS.sub(rf"\1{MASK}", said)) for said in (text, why))
    return ConfigurationError(f'{setting}: "{shown}": {why}', what_now=f"Allowed: {ALLOWED}.")


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
