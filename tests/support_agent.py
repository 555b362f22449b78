"""One wired agent on a fake Messages API, asked from plain test code, and what must hold after every question.

    with Rig("asyncio", TWO, tmp_path, Status(529)) as rig:
        told = rig.ask()                       # 529 whatever is asked
        assert (told.status, told.asked) == ("failed", "shhhh")
        rig.heal()
        rig.ask_again()                        # succeeds, on a history the API takes

`ask` itself checks what holds for every end of every question (promises A1, A2, B1, F1, F2, I5).
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cli import EXIT_OF_STATUS, error_line, json_line, report_json
from config import Settings, read_settings
from core.report import TurnReport
from events import AttemptStarted, Event, ToolCallStarted
from messages import Message
from telemetry.log_lines import LineFormatter
from telemetry.trace_view import draw
from tests.fake_messages import FakeMessages, Request, Scripted, Stream, says
from tests.support import Heard
from wiring import Answer, AsyncAgent, BlockingAgent

KEY = "test-key-0123456789abcdef"
ONE = "anthropic:claude-sonnet-5-5"
TWO = "anthropic:claude-sonnet-5-5,anthropic:claude-haiku-5-5"
TOOL_URLS = (
    "OPEN_METEO_GEOCODING_URL", "OPEN_METEO_FORECAST_URL", "TAVILY_BASE_URL", "BRAVE_BASE_URL", "WIKIPEDIA_URL",
)  # fmt: skip
FINE = Stream(says("fine"))
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")  # all but the newline


@dataclass(frozen=True)
class Told:
    """How one question ended, and what it took."""

    answer: Answer
    requests: list[Request]
    events: list[Event]
    took_s: float

    @property
    def report(self) -> TurnReport:
        return self.answer.report

    @property
    def status(self) -> str:
        return self.report.status

    @property
    def error_type(self) -> str | None:
        return self.report.error.type if self.report.error else None

    @property
    def asked(self) -> str:
        """Which models were asked, in order, by their first letters: `ssh` is sonnet twice, then haiku."""
        return "".join(request.body["model"].removeprefix("claude-")[0] for request in self.requests)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class Lines(logging.Handler):
    """Keeps every log line since it was last asked."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._lines: list[str] = []
        self._formatter = LineFormatter(as_json=False)

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self._formatter.format(record))

    def take(self) -> list[str]:
        taken, self._lines = self._lines, []
        return taken


def settings(url: str, chain: str, folder: Path, **variables: str) -> Settings:
    """As read from the environment: short waits, no rate limit, a dummy key."""
    return read_settings(
        {
            "ANTHROPIC_API_KEY": KEY,
            "ANTHROPIC_BASE_URL": url,
            "MODEL_CHAIN": chain,
            "TOTAL_TIMEOUT": "10",
            "LLM_TIMEOUT": "5",
            "RETRY_BASE_DELAY": "0.002",
            "RATE_LIMIT_PER_MINUTE": "0",
            # No tool here goes out; and without https there is no trust store to load for every agent.
            **dict.fromkeys(TOOL_URLS, "http://127.0.0.1:9"),
            "NOTES_DIR": str(folder / "notes"),
            "STATE_DIR": str(folder / "state"),
            **variables,
        }
    )


class Rig:
    """An agent and its API. With one behaviour it lasts until `heal`; with several they come one a request."""

    def __init__(
        self,
        kind: str,
        chain: str,
        folder: Path,
        *script: Scripted,
        url: str = "",
        logger: str = "unflappable",
        **variables: str,
    ) -> None:
        self.api = FakeMessages(*(script if len(script) > 1 else [lambda body: self._now(body)]))
        self._lasting: Any = script[0] if script else FINE
        self.chain = chain
        self._kind, self._folder = kind, folder
        self._url, self._variables = url, variables
        self._heard, self._log, self._logger = Heard(), Lines(), logging.getLogger(logger)
        self.agent: Any = None

    def _now(self, body: dict[str, Any]) -> Any:
        return self._lasting(body) if inspect.isfunction(self._lasting) else self._lasting

    def __enter__(self) -> Self:
        self.api.__enter__()
        self._logger.addHandler(self._log)
        chosen = settings(self._url or self.api.url, self.chain, self._folder, **self._variables)
        self._total_s = chosen.total_timeout_s
        make: Callable[..., Any] = BlockingAgent if self._kind == "blocking" else AsyncAgent
        self.agent = make(chosen, seed=1, listeners=[self._heard])
        self._loop = None if self._kind == "blocking" else asyncio.new_event_loop()
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is None:
            self.agent.close()
        else:
            self._loop.run_until_complete(self.agent.aclose())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()
        self._logger.removeHandler(self._log)
        self.api.__exit__()

    @property
    def history(self) -> tuple[Message, ...]:
        messages: tuple[Message, ...] = self.agent.conversation.messages
        return messages

    @property
    def notes(self) -> list[Path]:
        folder = self._folder / "notes"
        return sorted(folder.iterdir()) if folder.exists() else []

    def trace(self, told: Told) -> dict[str, Any]:
        """The trace of a question, from the file."""
        found: dict[str, Any] | None = self.agent.traces.get(told.answer.trace_id)
        assert found is not None
        return found

    @contextmanager
    def during(self, fault: Scripted, name: object = "") -> Iterator[None]:
        """While `fault` lasts; `name` is told with whatever fails then."""
        self._lasting = fault
        try:
            yield
        except BaseException as error:
            error.add_note(f"in the row {name!r}")
            raise
        self.heal()

    def heal(self) -> None:
        """From now on the API answers "fine"."""
        self._lasting = FINE

    def ask(self, question: str = "hello", *, unheard: bool = False) -> Told:
        """Ask one question and check what always holds; `unheard`: attempts do not reach the API."""
        requests, events, before = len(self.api.requests), len(self._heard.events), self.history
        begun_s = time.monotonic()
        answer = self._ask(question)
        took_s = time.monotonic() - begun_s
        told = Told(answer, self.api.requests[requests:], self._heard.events[events:], took_s)
        self._check(told, before, unheard)
        return told

    def _ask(self, question: str) -> Answer:
        asked = self.agent.ask(question)
        answer: Answer = asked if self._loop is None else self._loop.run_until_complete(asked)
        return answer

    def ask_again(self) -> Told:
        """One more question, which must succeed at the first try, in the same conversation."""
        before = self.history
        told = self.ask("and now?")
        assert (told.status, told.report.text, len(told.requests)) == ("ok", "fine", 1)
        assert len(told.requests[0].body["messages"]) == len(before) + 1
        assert len(self.history) == len(before) + 2
        return told

    def _check(self, told: Told, before: tuple[Message, ...], unheard: bool) -> None:
        report = told.report
        assert told.took_s <= self._total_s + 0.25
        assert report.status in EXIT_OF_STATUS
        assert (report.error is None) == (report.status != "failed")
        assert self.api.breaches == []
        started = [event for event in told.of(AttemptStarted) if event.dependency.startswith("model.")]
        assert told.answer.model_attempts == len(started)
        assert unheard or len(started) == len(told.requests)
        assert len(report.tool_calls) == len(told.of(ToolCallStarted))
        if report.status == "failed" and not any(call.wrote for call in report.tool_calls):
            assert self.history == before
        self._check_shown(told)

    def _check_shown(self, told: Told) -> None:
        report, trace, log = told.report, self.trace(told), self._log.take()
        assert (trace["status"], trace["model_attempts"]) == (report.status, told.answer.model_attempts)
        ids = {"session_id": told.answer.session_id, "trace_id": told.answer.trace_id}
        as_json = json_line(report_json(report, **ids, model_attempts=told.answer.model_attempts))
        for text in (as_json, error_line(report.error) if report.error else "", draw(trace), *log):
            assert KEY not in text
            assert not CONTROL.search(text)
        assert KEY not in json.dumps(trace)
        assert not any("\n" in line for line in log)
