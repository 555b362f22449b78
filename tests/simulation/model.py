"""The models, without a network: every request is judged, every answer goes over the wire as bytes.

Bytes go through the real `models/exchange.py`, decoder and stream parser, and the faults are those of
`models/wire_faults.py` and `gemini_faults.py`, drawn from the product's own plan as the real transport
does. On top come strikes that no flag can ask for: broken streams, odd statuses, pings without end.
"""

from __future__ import annotations

import abc
import json
import random
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import models.gemini_wire
import models.wire
from core.turn import NUDGE
from events import FaultInjected
from faults import Fault, FaultPlan
from flow import Flow, Pause
from messages import Reply
from models.chain import Converse
from models.exchange import Exchange, call_ids
from models.gemini_errors import error_of
from models.gemini_faults import GEMINI
from models.gemini_stream import GeminiParser
from models.practice.protocol import error_event, sse_event, sse_events
from models.sse import SseDecoder
from models.stream import StreamParser
from models.wire_faults import MESSAGES, Answer, Dialect
from tests import gemini_validator, history_validator
from tests.simulation.scripts import Round, message_of
from tests.simulation.web import FOREVER_S

SSE = {"content-type": "text/event-stream"}


class ApiStatusError(Exception):
    """What an SDK raises for an answer with a status of 300 and more."""

    def __init__(self, answer: Answer) -> None:
        said = json.loads(answer.content or b"{}").get("error") or {}
        super().__init__(str(said.get("message")))
        self.status_code, self.type = answer.status, str(said.get("type"))
        self.response = SimpleNamespace(status_code=answer.status, headers=dict(answer.headers))


class SimulatedModels:
    """Performs `Converse` for every provider.

    Args:
        plan: the product's faults.
        strike: asked once a request, for what no flag can ask for.
        scripts: what is said to each question, by number.
        breach: told what is wrong with a request.
        rng: where streams are cut into pieces.
        now, wall: the clocks.
        secret: what a careless model or server says aloud.
    """

    def __init__(
        self,
        plan: FaultPlan,
        strike: Callable[[str], str],
        scripts: dict[int, tuple[Round, ...]],
        breach: Callable[[str], None],
        rng: random.Random,
        now: Callable[[], float],
        wall: Callable[[], float],
        secret: str,
    ) -> None:
        self._plan, self._strike, self._scripts, self._breach, self._rng = plan, strike, scripts, breach, rng
        self._now, self._wall, self._secret = now, wall, secret
        self._again: Counter[tuple[int, int, str]] = Counter()
        self.requests = self.injected = 0

    def __call__(self, effect: Converse, branch: Any) -> Flow[Reply]:
        """One attempt on one model."""
        self.requests += 1
        gemini = effect.link.provider == "google"
        body = (models.gemini_wire if gemini else models.wire).params(effect.request, effect.link)
        for problem in (gemini_validator if gemini else history_validator).breaches(body):
            self._breach(f"A1: a request to {effect.link.name} that the API refuses: {problem}")
        speaker = _Gemini() if gemini else _Claude()
        parser = (GeminiParser if gemini else StreamParser)(effect.link.name, call_ids(effect.request.messages))
        exchange = Exchange(effect, branch, parser, SseDecoder(marks_doubled=gemini), self._now, self._wall)
        fault, told = self._plan.next(effect.link.dependency), self.injected
        try:
            with exchange:
                yield from self._exchanging(exchange, effect, branch, body, speaker, fault)
        finally:
            if fault and told == self.injected:  # it had nothing to strike
                self._plan.give_back(fault)
        return exchange.reply

    def _exchanging(
        self, exchange: Exchange, effect: Converse, branch: Any, body: Any, speaker: _Speaker, fault: Fault | None
    ) -> Flow[None]:
        strike = self._strike(f"stream.{effect.link.provider}")
        answer = speaker.dialect.answer_to(fault, {**body, "model": effect.link.model}) if fault else None
        crashes = fault is not None and (fault.kind, fault.argument) == ("crash", "before")
        if fault and (answer or crashes or fault.kind in ("slow", "hang", "refused", "reset")):
            self._told(fault, branch)
            if crashes:
                self._plan.crash(fault)
            yield Pause({"slow": fault.seconds(5.0), "hang": FOREVER_S}.get(fault.kind, 0.0))
        if fault and fault.kind in ("refused", "reset"):
            raise ConnectionRefusedError("refused") if fault.kind == "refused" else ConnectionResetError("reset")
        if strike in ("dns", "tls"):
            raise (
                socket.gaierror(socket.EAI_AGAIN, "no name server")
                if strike == "dns"
                else ssl.SSLCertVerificationError("expired")
            )
        if answer is None and strike.startswith("status_"):
            yield Pause(2.0 if strike.endswith("late") else 0.1)
            answer = speaker.refusal(int(strike.split("_")[1]), self._secret)
        yield Pause(0.2)
        if answer is not None and answer.status >= 300:
            raise speaker.error(answer, self._wall())
        exchange.open(answer.headers if answer else SSE)
        frames = [answer.content] if answer else list(speaker.frames(self._message(effect)))
        yield from self._streaming(exchange, effect, branch, _struck(frames, strike, speaker), fault, strike, speaker)

    def _streaming(
        self, exchange: Exchange, effect: Converse, branch: Any, frames: list[bytes], fault: Fault | None, strike: str,
        speaker: _Speaker,
    ) -> Flow[None]:  # fmt: skip
        breaks = fault is not None and fault.kind in ("cut", "stall", "crash")
        where = "end" if fault and fault.kind == "crash" else fault and fault.argument
        point = speaker.dialect.breaking(where or "text") if breaks else None
        for at, frame in enumerate(self._pieces(frames)):
            passed, broken = point.feed(frame) if point else (frame, False)
            if passed and exchange.feed(passed) and not speaker.reads_on:
                break
            if fault and broken:
                self._told(fault, branch)
                if fault.kind == "crash":
                    self._plan.crash(fault)
                if fault.kind == "stall":
                    yield Pause(FOREVER_S)
                return exchange.end()
            yield from _interlude(strike, at)
            if strike == "reset_text" and at == len(frames) // 2:
                raise ConnectionResetError("reset in mid-answer")
        if point:
            exchange.feed(point.rest())
        exchange.end()
        if strike == "reset_after_end":
            raise ConnectionResetError("reset after the end")

    def _told(self, fault: Fault, branch: Any) -> None:
        self.injected += 1
        branch.emit(FaultInjected(fault.target, fault.kind, fault.argument or ""))

    def _pieces(self, frames: list[bytes]) -> Iterator[bytes]:
        """The frames as a network delivers them: some together, some cut anywhere."""
        rest = b""
        for frame in frames:
            rest += frame
            draw = self._rng.random()
            if draw < 0.3:
                continue
            cut = int(len(rest) * self._rng.random()) if draw < 0.4 else len(rest)
            if cut:
                yield rest[:cut]
                rest = rest[cut:]
        if rest:
            yield rest

    def _message(self, effect: Converse) -> dict[str, Any]:
        question, number, nudged = _where(effect)
        key = (question, number, effect.link.name)
        again, self._again[key] = self._again[key], self._again[key] + 1
        script = self._scripts.get(question, ())
        model = effect.link.model
        return message_of(script, question, number, again, model, nudged=nudged, secret=self._secret)


def _where(effect: Converse) -> tuple[int, int, bool]:
    """The question a request is about, how many rounds of it are over, and whether it is a nudge."""
    rounds = 0
    for message in reversed(effect.request.messages):
        texts = [block.text for block in message.blocks if hasattr(block, "text")]
        asked = next((text for text in texts if text.startswith("[q")), "")
        if message.role == "user" and asked:
            return int(asked[2:].partition("]")[0]), rounds, NUDGE in texts
        rounds += message.role == "assistant"
    return 0, rounds, False


def _interlude(strike: str, at: int) -> Flow[None]:
    if strike == "pings" and at >= 2:
        yield Pause(FOREVER_S)  # the pings themselves are in the frames
    elif strike == "drip":
        yield Pause(1.5)
    elif at % 4 == 0:
        yield Pause(0.01)


def _struck(frames: list[bytes], strike: str, speaker: _Speaker) -> list[bytes]:
    """The frames of a whole answer with something wrong in them."""
    middle = max(1, len(frames) // 2)
    match strike:
        case "error_start":
            return [speaker.broken("overloaded")]
        case "error_text":
            return [*frames[:middle], speaker.broken("overloaded")]
        case "error_end":
            return [*frames[:-1], speaker.broken("server")]
        case "byte_cut":
            whole = b"".join(frames)
            return [whole[: len(whole) * 2 // 3]]
        case "byte_flip":
            flipped = bytearray(b"".join(frames))
            flipped[len(flipped) // 2] ^= 0x80
            return [bytes(flipped)]
        case "pings":
            return [frames[0], *[speaker.ping] * 5, *frames[1:]]
        case "unknown_events":
            return [part for frame in frames for part in (speaker.unknown, frame)]
        case "twice":
            return [frames[0], *frames]
    return frames


class _Speaker(abc.ABC):
    """One dialect."""

    dialect: Dialect
    reads_on: bool
    ping: bytes
    unknown: bytes

    @abc.abstractmethod
    def frames(self, message: dict[str, Any]) -> Iterator[bytes]: ...

    @abc.abstractmethod
    def refusal(self, status: int, secret: str) -> Answer: ...

    @abc.abstractmethod
    def error(self, answer: Answer, wall_s: float) -> Exception: ...

    @abc.abstractmethod
    def broken(self, what: str) -> bytes: ...


class _Claude(_Speaker):
    dialect, reads_on = MESSAGES, False
    ping = sse_event("ping", {"type": "ping"})
    unknown = sse_event("galaxy_delta", {"type": "galaxy_delta", "delta": {"type": "what", "x": [1]}})

    def frames(self, message: dict[str, Any]) -> Iterator[bytes]:
        return sse_events(message)

    def refusal(self, status: int, secret: str) -> Answer:
        kinds = {402: "billing_error", 404: "not_found_error", 408: "timeout_error", 413: "request_too_large"}
        error = {"type": kinds.get(status, "api_error"), "message": f"no, {secret}\x1b[31m"}
        return Answer(status, json.dumps({"type": "error", "error": error}).encode(), {})

    def error(self, answer: Answer, wall_s: float) -> Exception:
        return ApiStatusError(answer)

    def broken(self, what: str) -> bytes:
        return error_event("overloaded_error" if what == "overloaded" else "api_error", f"{what}\r\nsecond=line")


class _Gemini(_Speaker):
    dialect, reads_on = GEMINI, True
    ping = b": ping\r\n\r\n"
    unknown = b'data: {"galaxy": [1, {"a": null}]}\r\n\r\n'

    def frames(self, message: dict[str, Any]) -> Iterator[bytes]:
        parts = [part for block in message["content"] for part in _parts(block)]
        finishes = {"max_tokens": "MAX_TOKENS", "refusal": "SAFETY", "cosmic_ray": "COSMIC_RAY"}
        for part in parts:
            yield _chunk(message, [part], None)
        yield _chunk(message, [{"text": ""}], finishes.get(message["stop_reason"], "STOP"))

    def refusal(self, status: int, secret: str) -> Answer:
        words = {402: "RESOURCE_EXHAUSTED", 404: "NOT_FOUND", 413: "INVALID_ARGUMENT"}
        error = {"code": status, "message": f"no, {secret}\x1b[31m", "status": words.get(status, "INTERNAL")}
        return Answer(status, json.dumps({"error": error}).encode(), {})

    def error(self, answer: Answer, wall_s: float) -> Exception:
        return error_of(answer.status, json.loads(answer.content), answer.headers, wall_s)

    def broken(self, what: str) -> bytes:
        code, status = (503, "UNAVAILABLE") if what == "overloaded" else (500, "INTERNAL")
        error = {"error": {"code": code, "message": f"{what}\r\nsecond=line", "status": status}}
        return b"data: " + json.dumps(error).encode() + b"\r\n\r\n"


def _parts(block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    match block["type"]:
        case "text":
            words = block["text"]
            yield from ({"text": words[at : at + 12]} for at in range(0, len(words), 12))
        case "thinking":
            yield {"text": block["thinking"], "thought": True}
        case "tool_use":
            given = block["input"] if isinstance(block["input"], dict) else {}
            call = {"id": block["id"], "name": block["name"], "args": given}
            yield {"functionCall": call, "thoughtSignature": f"sig_{block['id']}"}
        case "hologram":
            yield {"hologram": block["shape"]}


def _chunk(message: dict[str, Any], parts: list[dict[str, Any]], finish: str | None) -> bytes:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    said = {
        "candidates": [candidate],
        "usageMetadata": {"promptTokenCount": 100, "candidatesTokenCount": 20, "totalTokenCount": 120},
        "modelVersion": message["model"],
        "responseId": message["id"],
    }
    return b"data: " + json.dumps(said, ensure_ascii=False).encode() + b"\r\n\r\n"
