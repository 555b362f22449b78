"""The whole agent through everything that can go wrong between it and a model, on real sockets.

Each row says what the API does, how the question ends, and exactly who is asked how often. What holds
for every question is checked in `Rig.ask`: its deadline, valid requests, a history untouched by failure,
attempts that agree with the trace and the server, no secret and no control byte in what is shown. After
each row the API is well again and one more question, in the same conversation, must succeed.
"""

from __future__ import annotations

import gc
import gzip
import json
import logging
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from events import AttemptAbandoned, CallRejected, FellBack, NoticeGiven, TextStreamed
from messages import Message, Text
from models.practice.protocol import error_body, error_event, sse_event, sse_events
from tests import support_agent
from tests.fake_messages import (
    Connection,
    Cut,
    Drip,
    Raw,
    Scripted,
    Silence,
    Stall,
    Status,
    Stream,
    calls,
    message,
    says,
)
from tests.support_agent import FINE, KEY, ONE, TWO, Told
from wiring import preload

SSE = {"content-type": "text/event-stream"}
HI = {"type": "text", "text": "abcdefghijklmnop"}
NOTE = {"type": "tool_use", "id": "toolu_n", "name": "save_note", "input": {"content": "buy milk"}}
SUM = {"type": "tool_use", "id": "toolu_s", "name": "calculator", "input": {"expression": "15*23"}}
TALK = message([HI, NOTE], "tool_use")
FRAMES = list(sse_events(TALK))
ANOTHER = message([HI, {**NOTE, "id": "toolu_m"}], "tool_use")
FULL_OF = (
    f"{KEY} Bearer sk-ant-api03-abcdefghijkl \x1b]0;owned\x07 \x9b31m \r\nsecond=line \u202e http://me:{KEY}@host/"
)

# Who is asked, in a chain of one (sonnet) and of two (sonnet, haiku), by first letters.
NOT_AGAIN = ("s", "s")
NEXT_AT_ONCE = ("s", "sh")
RETRIED = ("ssss", "sshhhh")
NOT_RETRIED_WITH_SUCCESSOR = ("ssss", "shhhh")
ONCE_RETRIED = ("ss", "sshh")
THROTTLED = ("ssssss", "sshhhhhh")


@pytest.fixture(autouse=True, scope="module")
def _sdk_loaded_and_everything_logged() -> Iterator[None]:
    preload()
    gc.collect()
    gc.freeze()  # collecting all that other tests imported takes as long as a deadline may be missed by
    ours = logging.getLogger("unflappable")
    before = ours.level
    ours.setLevel(logging.DEBUG)
    yield
    ours.setLevel(before)
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _what_an_alarm_left() -> Iterator[None]:
    """A socket whose connecting an alarm ends is closed as garbage: here, and not in a later test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(params=[("asyncio", ONE), ("asyncio", TWO), ("blocking", ONE), ("blocking", TWO)], ids=str)
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Each agent with each chain."""
    agent_and_chain: tuple[str, str] = request.param
    return agent_and_chain


STRAIGHT = pytest.mark.parametrize("pair", [("asyncio", TWO), ("blocking", ONE)], ids=["asyncio-2", "blocking-1"])
CROSSED = pytest.mark.parametrize("pair", [("asyncio", ONE), ("blocking", TWO)], ids=["asyncio-1", "blocking-2"])
"""For tables: both agents and both chains. All rows of a table are one conversation of one agent."""


class Rig(support_agent.Rig):
    """Every question here has two seconds, and may be late by a quarter of one (promise B1)."""

    def __init__(self, kind: str, chain: str, folder: Path, *script: Scripted, **variables: str) -> None:
        super().__init__(kind, chain, folder, *script, **{"TOTAL_TIMEOUT": "2", **variables})


NO_BREAKER = {"BREAKER_FAILURE_THRESHOLD": "1000"}
"""For tables: the second model, which never heals there, must not count as dead in the end."""


def fails_and_heals(rig: Rig, row: tuple[Any, ...]) -> Told:
    """What a lasting fault leads to, and that nothing of it is left when it is over.

    `row`: a name, what the API does, the error's type when one model is asked, who is asked.
    """
    name, fault, error_type, asked = row[:4]
    with rig.during(fault, name):
        told = rig.ask()
        assert told.status == "failed"
        assert told.asked == asked[rig.chain == TWO]
        assert told.error_type == ("ChainExhausted" if "h" in told.asked else error_type)
        assert told.report.error is not None
        assert told.report.error.what_now
        hops = [hop.to for hop in told.of(FellBack) if hop.to]
        assert hops == (["anthropic:claude-haiku-5-5"] if "h" in told.asked else [])
        assert (told.report.tool_calls, rig.notes) == ((), [])
        assert voided(told) == shown(told)
        rig.heal()
        rig.ask_again()
    return told


def shown(told: Told) -> int:
    """Characters of answers that reached the screen."""
    return sum(len(event.text) for event in told.of(TextStreamed))


def voided(told: Told) -> int:
    """Characters of answers that were called void."""
    return sum(event.chars_voided for event in told.of(AttemptAbandoned))


# --- refusals by status ----------------------------------------------------------------------------------


def said(kind: str, words: str, **details: Any) -> bytes:
    body = error_body(kind, words)
    body["error"].update(details)
    return json.dumps(body).encode()


STATUSES = [
    (300, "RedirectRefused", NOT_AGAIN),
    (301, "RedirectRefused", NOT_AGAIN),
    (304, "RedirectRefused", NOT_AGAIN),
    (307, "RedirectRefused", NOT_AGAIN),
    (400, "BadRequest", NOT_AGAIN),
    (401, "AuthenticationError", NOT_AGAIN),
    (402, "BillingError", NOT_AGAIN),
    (403, "PermissionDenied", NOT_AGAIN),
    (404, "NotFound", NEXT_AT_ONCE),
    (405, "BadRequest", NOT_AGAIN),
    (407, "ProxyError", NOT_AGAIN),
    (408, "TimedOut", NOT_RETRIED_WITH_SUCCESSOR),
    (409, "ServerError", RETRIED),
    (410, "BadRequest", NOT_AGAIN),
    (413, "ContextTooLong", ("ss", "ss")),
    (418, "BadRequest", NOT_AGAIN),
    (422, "BadRequest", NOT_AGAIN),
    (429, "RateLimited", THROTTLED),
    (500, "ServerError", RETRIED),
    (502, "ServerError", RETRIED),
    (503, "ServerError", RETRIED),
    (504, "ServerError", RETRIED),
    (520, "ServerError", RETRIED),
    (529, "Overloaded", NOT_RETRIED_WITH_SUCCESSOR),
]


def test_each_status_has_its_own_end(pair: tuple[str, str], tmp_path: Path) -> None:
    with Rig(*pair, tmp_path, **NO_BREAKER) as rig:
        rig.ask()  # 413 halves a history, so there must be one
        for status, error_type, asked in STATUSES if pair in (("asyncio", TWO), ("blocking", ONE)) else STATUSES[4::4]:
            elsewhere = {"location": "http://127.0.0.1:9/v1/messages"}
            answer = Status(status, b"", elsewhere) if status < 400 else Status(status)
            told = fails_and_heals(rig, (status, answer, error_type, asked))
            assert f"({status})" in str(told.report.error)


STATUS_401 = b"HTTP/1.1 401 No\r\ncontent-type: application/json\r\n"


def stalls_in_the_body(connection: Connection) -> bool:
    connection.sock.sendall(STATUS_401 + b"content-length: 500\r\n\r\n{")
    connection.stall()
    return False


def drips_the_body(connection: Connection) -> bool:
    connection.sock.sendall(STATUS_401 + b"transfer-encoding: chunked\r\n\r\n")
    with suppress(OSError):
        while not connection.api.closing.wait(0.02):
            connection.chunk(b"x")
    return False


PACKED = gzip.compress(said("invalid_request_error", "Your credit balance is too low"))


BODIES = [
    ("page", Status(502, b"<html><body>nginx</body></html>", {"content-type": "text/html"}), "ServerError", RETRIED),
    ("empty", Status(529, b""), "Overloaded", NOT_RETRIED_WITH_SUCCESSOR),
    ("null", Status(401, b"null"), "AuthenticationError", NOT_AGAIN),
    ("wrong shape", Status(401, b'{"error":{"type":5,"message":[7]}}'), "AuthenticationError", NOT_AGAIN),
    ("deep", Status(401, b"[" * 60_000), "AuthenticationError", NOT_AGAIN),
    ("endless", Status(401, b"x" * 3_000_000), "AuthenticationError", NOT_AGAIN),
    ("cut", Raw(STATUS_401 + b"content-length: 500\r\n\r\n{"), "AuthenticationError", NOT_AGAIN),
    ("stalled", lambda body: stalls_in_the_body, "AuthenticationError", NOT_AGAIN),
    ("dripping", lambda body: drips_the_body, "AuthenticationError", NOT_AGAIN),
    ("not gzip", Status(401, b"\x1f\x8bnoise", {"content-encoding": "gzip"}), "AuthenticationError", NOT_AGAIN),
    ("gzip", Status(400, PACKED, {"content-encoding": "gzip"}), "BillingError", NOT_AGAIN),
]


@STRAIGHT
def test_the_status_counts_whatever_its_body_is(pair: tuple[str, str], tmp_path: Path) -> None:
    with Rig(*pair, tmp_path, **NO_BREAKER) as rig:
        for row in BODIES:
            assert "<" not in str(fails_and_heals(rig, row).report.error)


WORDS = [
    ("credit", Status(400, said("invalid_request_error", "Your credit balance is too low")), "BillingError", NOT_AGAIN),
    (
        "spend",
        Status(429, said("rate_limit_error", "x", details={"error_code": "spend_limit"})),
        "BillingError",
        NOT_AGAIN,
    ),
    ("length", Status(400, said("invalid_request_error", "prompt is too long: 3 > 2")), "ContextTooLong", NOT_AGAIN),
    ("retry?", Status(400, headers={"x-should-retry": "true"}), "BadRequest", NOT_AGAIN),
    ("no retry", Status(500, headers={"x-should-retry": "false"}), "ServerError", NEXT_AT_ONCE),
    ("too late", Status(503, headers={"retry-after": "30"}), "ServerError", NEXT_AT_ONCE),
]


@pytest.mark.parametrize("row", WORDS, ids=lambda row: row[0])
def test_what_a_refusal_is_about_stands_in_its_words(row: tuple[Any, ...], tmp_path: Path) -> None:
    with Rig("asyncio", TWO, tmp_path) as rig:
        fails_and_heals(rig, row)


def test_an_empty_purse_goes_to_another_provider_and_past_the_same_ones_models(tmp_path: Path) -> None:
    with Rig("asyncio", f"{TWO},practice", tmp_path, Status(402)) as rig:
        told = rig.ask("What is 15 * 23?", unheard=True)
        assert (told.status, told.report.model, told.asked) == ("ok", "practice", "ss")
        assert "345" in told.report.text


# --- Retry-After -----------------------------------------------------------------------------------------


WAITS = [
    ("fits", {"retry-after-ms": "20"}, THROTTLED, 0.02),
    ("fits as seconds", {"retry-after": "0.02"}, THROTTLED, 0.02),
    ("zero", {"retry-after": "0"}, THROTTLED, 0),
    ("past date", {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, THROTTLED, 0),
    ("negative", {"retry-after": "-5"}, THROTTLED, 0),
    ("garbage", {"retry-after": "soon"}, THROTTLED, 0),
    ("infinite", {"retry-after": "1e999"}, THROTTLED, 0),
    ("garbage in ms", {"retry-after-ms": "NaN", "retry-after": "0.02"}, THROTTLED, 0.02),
    ("retry forbidden", {"x-should-retry": "false"}, NEXT_AT_ONCE, 0),
]


@pytest.mark.parametrize("row", WAITS, ids=lambda row: row[0])
def test_a_wait_that_fits_is_waited_for(row: tuple[Any, ...], tmp_path: Path) -> None:
    name, headers, asked, wait_s = row
    with Rig(*(("asyncio", ONE) if wait_s else ("blocking", TWO)), tmp_path) as rig:
        told = fails_and_heals(rig, (name, Status(429, headers=headers), "RateLimited", asked))
        waits = len(told.asked) - len(set(told.asked))  # a hop waits for nothing
        assert told.took_s >= wait_s * waits


def test_a_wait_that_fits_is_waited_for_also_where_there_is_another_model(tmp_path: Path) -> None:
    with Rig("blocking", TWO, tmp_path) as rig:
        told = fails_and_heals(rig, ("fits", Status(429, headers={"retry-after": "0.05"}), "RateLimited", THROTTLED))
        assert told.took_s >= 0.05 * 6


@pytest.mark.parametrize("form", ["30", "86400", formatdate(time.time() + 3600, usegmt=True)], ids=["s", "day", "date"])
def test_a_wait_that_does_not_fit_is_not_begun_and_later_questions_obey_it(
    pair: tuple[str, str], form: str, tmp_path: Path
) -> None:
    with Rig(*pair, tmp_path, Status(429, headers={"retry-after": form})) as rig:
        told = rig.ask()
        assert (told.status, told.asked) == ("failed", NEXT_AT_ONCE[rig.chain == TWO])
        assert told.report.error is not None
        assert (told.report.error.retry_after_s or 0) > 25
        assert told.took_s < 1
        rig.heal()
        later = rig.ask()
        assert (later.status, later.asked, later.report.error is not None) == ("failed", "", True)
        assert len(later.of(CallRejected)) == len(set(told.asked))


def test_only_the_one_that_asked_for_a_pause_is_given_it(tmp_path: Path) -> None:
    def throttled(body: dict[str, Any]) -> Scripted:
        return Status(429, headers={"retry-after": "60"}) if "sonnet" in body["model"] else FINE

    with Rig("asyncio", TWO, tmp_path, throttled) as rig:
        assert (rig.ask().asked, rig.ask().asked) == ("sh", "h")


# --- connections -----------------------------------------------------------------------------------------


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_refused_connection(pair: tuple[str, str], host: str, tmp_path: Path) -> None:
    with Rig(*pair, tmp_path, url=f"http://{host}:{closed_port()}") as rig:
        told = rig.ask(unheard=True)
        assert told.error_type == ("ChainExhausted" if pair[1] == TWO else "ConnectionFailed")
        assert told.answer.model_attempts == len(RETRIED[pair[1] == TWO])


BOMB = gzip.compress(b":\n" * 4_000_000)
NO_ANSWERS = [
    ("hangs up", Raw(b""), "ConnectionFailed", RETRIED),
    ("reset", Raw(b"", reset=True), "ConnectionFailed", RETRIED),
    ("another protocol", Raw(b"SSH-2.0-x\r\n"), "ConnectionFailed", RETRIED),
    ("half a status line", Raw(b"HTTP/1.1 20"), "ConnectionFailed", RETRIED),
    ("endless header", Raw(b"HTTP/1.1 200 OK\r\nx: " + b"a" * 200_000 + b"\r\n\r\n"), "ConnectionFailed", RETRIED),
    ("page", Status(200, b"<html>Welcome</html>", {"content-type": "text/html"}), "ProtocolBroken", ONCE_RETRIED),
    ("JSON", Status(200, json.dumps(says("hi")).encode()), "ProtocolBroken", ONCE_RETRIED),
    ("text", Status(200, b"hello", {"content-type": "text/plain"}), "ProtocolBroken", ONCE_RETRIED),
    ("no content", Status(204, b""), "ProtocolBroken", ONCE_RETRIED),
    ("no type", Status(200, b"", {"content-type": ""}), "ProtocolBroken", ONCE_RETRIED),
    ("empty stream", Status(200, b"", SSE), "ProtocolBroken", ONCE_RETRIED),
    ("not gzip", Status(200, b"\x1f\x8bnoise", {**SSE, "content-encoding": "gzip"}), "ProtocolBroken", ONCE_RETRIED),
    ("bomb", Status(200, BOMB, {**SSE, "content-encoding": "gzip"}), "ProtocolBroken", ONCE_RETRIED),
]


@CROSSED
def test_what_is_no_answer_of_the_api(pair: tuple[str, str], tmp_path: Path) -> None:
    with Rig(*pair, tmp_path, **NO_BREAKER) as rig:
        for row in NO_ANSWERS:
            fails_and_heals(rig, row)


@pytest.mark.parametrize(
    ("number", "tries"), [(socket.EAI_AGAIN, RETRIED), (socket.EAI_NONAME, ONCE_RETRIED)], ids=["again", "unknown"]
)
def test_a_name_that_is_not_found(
    pair: tuple[str, str], number: int, tries: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(number, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    with Rig(*pair, tmp_path, url="http://no-such-host.example") as rig:
        told = rig.ask(unheard=True)
        assert (told.status, told.answer.model_attempts) == ("failed", len(tries[pair[1] == TWO]))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="a certificate is made with openssl")
def test_a_bad_certificate_is_named_and_nobody_else_is_asked(pair: tuple[str, str], tmp_path: Path) -> None:
    with tls_server(tmp_path) as (port, hellos), Rig(*pair, tmp_path, url=f"https://localhost:{port}") as rig:
        told = rig.ask(unheard=True)
        assert (told.error_type, told.answer.model_attempts, len(hellos)) == ("TlsError", 1, 1)
        assert "self-signed" in str(told.report.error)


@contextmanager
def tls_server(folder: Path) -> Iterator[tuple[int, list[int]]]:
    key, certificate, hellos = folder / "key.pem", folder / "certificate.pem", list[int]()
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    command = ["openssl", "req", "-x509", *curve, "-nodes", *files, "-subj", "/CN=localhost"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def serve() -> None:
        with suppress(OSError):
            while True:
                sock, _ = server.accept()
                hellos.append(1)
                with suppress(OSError), sock, context.wrap_socket(sock, server_side=True) as secure:
                    secure.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], hellos
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)


@pytest.mark.parametrize("status", [407, 403, 502])
@STRAIGHT
def test_a_proxy_that_refuses_is_named_without_its_password(
    pair: tuple[str, str], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Rig(*pair, tmp_path, Status(status), url="https://api.example") as rig:
        monkeypatch.setenv("https_proxy", rig.api.url.replace("//", f"//me:{KEY}@"))
        told = rig.ask(unheard=True)
        assert (told.error_type, [request.method for request in told.requests]) == ("ProxyError", ["CONNECT"])


SILENTLY_CLOSED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n%s\r\n" + b"".join(sse_events(says("fine")))
BY_LENGTH = b"content-length: %d\r\n" % len(SILENTLY_CLOSED.partition(b"%s\r\n")[2])


@pytest.mark.parametrize("ends", [BY_LENGTH, b""], ids=["by length", "by its end"])
@STRAIGHT
def test_a_connection_closed_without_a_word_costs_the_next_question_nothing(
    pair: tuple[str, str], ends: bytes, tmp_path: Path
) -> None:
    with Rig(*pair, tmp_path, Raw(SILENTLY_CLOSED.replace(b"%s", ends))) as rig:
        for _ in range(3):
            rig.ask_again()
            rig.api.wait_closed()


# --- broken streams --------------------------------------------------------------------------------------


@STRAIGHT
def test_a_stream_cut_after_any_event_is_void_and_runs_nothing(pair: tuple[str, str], tmp_path: Path) -> None:
    with Rig(*pair, tmp_path, **NO_BREAKER) as rig:
        for frames in range(1, len(FRAMES)):
            how = ("end", "abrupt")[frames % 2]
            fails_and_heals(rig, (frames, Cut(TALK, frames, how=how), "ProtocolBroken", ONCE_RETRIED))


@CROSSED
def test_a_stream_cut_within_a_word_or_a_character_is_void(pair: tuple[str, str], tmp_path: Path) -> None:
    whole = says("Ü" * 12)
    data = b"".join(sse_events(whole))
    within = [data.index("Ü".encode()) + 1, data.index(b"content_block_stop") + 5, len(data) - 1]
    with Rig(*pair, tmp_path, **NO_BREAKER) as rig:
        for size in within:
            fails_and_heals(rig, (size, Cut(whole, after_bytes=size), "ProtocolBroken", ONCE_RETRIED))


@pytest.mark.parametrize("frames", [0, 1, 4, 9, len(FRAMES) - 1])
def test_a_reset_in_mid_stream_is_void_and_runs_nothing(frames: int, tmp_path: Path) -> None:
    with Rig("asyncio", TWO, tmp_path, Cut(TALK, frames, how="reset")) as rig:
        told = rig.ask()  # an RST may overtake what was sent: then the connection failed before the answer began
        assert (told.status, told.asked[:2], told.report.tool_calls, rig.notes) == ("failed", "ss", (), [])
        assert len(told.asked) in (4, 5, 6)
        rig.heal()
        rig.ask_again()


@pytest.mark.parametrize("first", [0, 1])
@CROSSED
def test_an_error_event_at_any_place_voids_the_answer(pair: tuple[str, str], first: int, tmp_path: Path) -> None:
    with Rig(*pair, tmp_path, **NO_BREAKER) as rig:
        for at in range(first, len(FRAMES), 2):  # half of the places: more retries than that and their quota is spent
            broken = Stream([*FRAMES[:at], error_event("overloaded_error", FULL_OF), *FRAMES[at:]])
            fails_and_heals(rig, (at, broken, "Overloaded", NOT_RETRIED_WITH_SUCCESSOR))


ERROR_EVENTS = [
    ("api_error", "ServerError", RETRIED),
    ("rate_limit_error", "RateLimited", THROTTLED),
    ("timeout_error", "TimedOut", NOT_RETRIED_WITH_SUCCESSOR),
    ("not_found_error", "NotFound", NEXT_AT_ONCE),
    ("invalid_request_error", "BadRequest", NOT_AGAIN),
    ("authentication_error", "AuthenticationError", NOT_AGAIN),
    ("permission_error", "PermissionDenied", NOT_AGAIN),
    ("billing_error", "BillingError", NOT_AGAIN),
    ("request_too_large", "ContextTooLong", NOT_AGAIN),
    ("brand_new_error", "ServerError", RETRIED),
]


@pytest.mark.parametrize("row", ERROR_EVENTS, ids=lambda row: row[0])
def test_an_error_event_is_what_its_type_says(row: tuple[Any, ...], tmp_path: Path) -> None:
    kind, error_type, asked = row
    with Rig("blocking", TWO, tmp_path) as rig:
        fails_and_heals(rig, (kind, Stream([*FRAMES[:5], error_event(kind, "no")]), error_type, asked))


def event(name: str, **data: Any) -> bytes:
    return sse_event(name, {"type": name, **data})


START = event("message_start", message={"id": "m", "usage": {"input_tokens": 1, "output_tokens": 1}})
BLOCK = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
DELTA = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "hi there"})
CLOSE = event("content_block_stop", index=0)
END = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 3})
STOP = event("message_stop")
GOOD = [START, BLOCK, DELTA, CLOSE, END, STOP]
TOOL = event("content_block_start", index=0, content_block={**NOTE, "input": {}})
NOT_UTF8 = DELTA.replace(b"hi there", b"\xff\xfe")


BROKEN = [
    ("no JSON", [START, b"event: content_block_start\ndata: {oops\n\n"]),
    ("NaN", [START, BLOCK, DELTA, CLOSE, END.replace(b"3", b"NaN"), STOP]),
    ("no UTF-8", [START, BLOCK, NOT_UTF8, CLOSE, END, STOP]),
    ("two starts", [START, *GOOD]),
    ("no start", GOOD[1:]),
    ("data null", [START, b"event: content_block_start\ndata: null\n\n", *GOOD[2:]]),
    ("data a list", [START, b"event: content_block_delta\ndata: []\n\n", *GOOD[2:]]),
    ("wrong index", [START, BLOCK.replace(b'"index":0', b'"index":1'), *GOOD[2:]]),
    ("index no number", [START, BLOCK.replace(b'"index":0', b'"index":false'), *GOOD[2:]]),
    ("delta without a block", [START, DELTA, END, STOP]),
    ("delta of another kind", [START, BLOCK, DELTA.replace(b"text_delta", b"input_json_delta"), CLOSE, END, STOP]),
    ("block never closed", [START, TOOL, END, STOP]),
    ("no stop reason", [START, BLOCK, DELTA, CLOSE, END.replace(b'"end_turn"', b"null"), STOP]),
    ("no message_delta", [START, BLOCK, DELTA, CLOSE, STOP]),
    ("name and type differ", [*GOOD[:-1], b'event: message_stop\ndata: {"type":"message_delta"}\n\n']),
    ("empty id", [START, TOOL.replace(b"toolu_n", b""), CLOSE, END, STOP]),
    ("one id twice", list(sse_events(message([NOTE, NOTE], "tool_use")))),
]


@STRAIGHT
def test_a_stream_that_breaks_the_protocol_is_void(pair: tuple[str, str], tmp_path: Path) -> None:
    with Rig(*pair, tmp_path, **NO_BREAKER) as rig:
        for name, frames in BROKEN:
            fails_and_heals(rig, (name, Stream(frames), "ProtocolBroken", ONCE_RETRIED))


UNKNOWN = [
    ("unknown events", [event("hello"), START, event("spark", x=1), *GOOD[1:], event("later")]),
    ("unknown delta", [START, BLOCK, DELTA.replace(b"text_delta", b"odd_delta"), *GOOD[2:]]),
    ("unknown fields", [frame.replace(b'{"type"', b'{"new":[null],"type"', 1) for frame in GOOD]),
    ("no names", [frame.partition(b"\n")[2] for frame in GOOD]),
    ("CRLF", [frame.replace(b"\n", b"\r\n") for frame in GOOD]),
    ("comments", [b": hm\n\n" + frame for frame in GOOD]),
    ("text after the end", [*GOOD, DELTA]),
]


@CROSSED
def test_what_is_unknown_changes_nothing(pair: tuple[str, str], tmp_path: Path) -> None:
    with Rig(*pair, tmp_path) as rig:
        for name, frames in UNKNOWN:
            with rig.during(Stream(frames), name):
                told = rig.ask()
                assert (told.status, told.report.text, told.asked) == ("ok", "hi there", "s")
        rig.ask_again()


USAGES = [
    ("missing", [START.replace(b'"usage"', b'"used"'), *GOOD[1:4], END.replace(b'"usage"', b'"used"'), STOP]),
    ("negative", [*GOOD[:4], END.replace(b"3", b"-3"), STOP]),
    ("a word", [*GOOD[:4], END.replace(b"3", b'"many"'), STOP]),
    ("a list", [*GOOD[:4], END.replace(b'{"output_tokens":3}', b"[3]"), STOP]),
]


@STRAIGHT
def test_bad_usage_is_unknown_and_not_zero(pair: tuple[str, str], tmp_path: Path) -> None:
    with Rig(*pair, tmp_path) as rig:
        for name, frames in USAGES:
            with rig.during(Stream(frames), name):
                told = rig.ask()
                assert (told.status, told.report.usage.output_tokens, told.report.cost_usd) == ("ok", None, None)
        rig.ask_again()


# --- time ------------------------------------------------------------------------------------------------


def drips_headers(connection: Connection) -> bool:
    with suppress(OSError):
        connection.sock.sendall(b"HTTP/1.1 200 OK\r\n")
        while not connection.api.closing.wait(0.05):
            connection.sock.sendall(b"x: y\r\n")
    return False


def floods(frame: bytes) -> Any:
    def flood(connection: Connection) -> bool:
        Stream(GOOD).begin(connection)
        with suppress(OSError):
            connection.chunk(START + BLOCK)
            while True:
                connection.chunk(frame * 50)
        return False

    return lambda body: flood


ENDLESS = Drip([START, BLOCK, *[DELTA] * 200], bytes_each=len(DELTA), every_s=0.05)
SILENT = {"s", "ss", "sss", "ssss", "sh", "shh", "shhh"}  # each try ends after its silence, the last with the deadline

STALLS: dict[str, tuple[Any, set[str]]] = {
    "no first byte": (Silence(), SILENT),
    "headers that drip": (lambda body: drips_headers, SILENT),
    "silence after the headers": (Stall(TALK), SILENT),
    "silence in the text": (Stall(TALK, 4), SILENT),
    "silence in the tool's input": (Stall(TALK, 9), SILENT),
    "silence before the end": (Stall(TALK, len(FRAMES) - 1), SILENT),
    "pings only": (Stall(TALK, 0, pings_s=0.02), SILENT),
    "pings in the text": (Stall(TALK, 4, pings_s=0.02), SILENT),
    "text without an end": (ENDLESS, {"s"}),
}


STEADY = ("text without an end",)
TIGHT = {"LLM_TIMEOUT": "0.5"}
SHORT = {"TOTAL_TIMEOUT": "0.6", "LLM_TIMEOUT": "0.25"}


def ends_in_time(kind: str, chain: str, folder: Path, name: str, **variables: str) -> None:
    fault, asked = STALLS[name]
    with Rig(kind, chain, folder, **(variables or TIGHT)) as rig, rig.during(fault, name):
        told = rig.ask()
        assert (told.status, told.error_type) == ("failed", "DeadlineExceeded")
        assert told.asked in asked
        assert (told.report.tool_calls, rig.notes) == ((), [])
        assert voided(told) == shown(told)
        rig.heal()
        rig.ask_again()


def test_whatever_stalls_the_asyncio_agent_ends_by_the_deadline(tmp_path: Path) -> None:
    with ThreadPoolExecutor(len(STALLS)) as pool:  # each with a loop of its own: their two seconds side by side
        chains = {name: (ONE, TWO)[at % 2] for at, name in enumerate(STALLS)}
        ends = [
            pool.submit(ends_in_time, "asyncio", chains[name], tmp_path / str(at), name)
            for at, name in enumerate(STALLS)
        ]
    for end in ends:
        end.result()


@pytest.mark.parametrize("name", ["pings in the text", "silence in the tool's input"])
def test_whatever_stalls_the_blocking_agent_ends_by_the_deadline(name: str, tmp_path: Path) -> None:
    ends_in_time("blocking", TWO, tmp_path, name)


@pytest.mark.parametrize("name", STALLS)
def test_the_blocking_agent_also_with_little_time(name: str, tmp_path: Path) -> None:
    ends_in_time("blocking", ONE, tmp_path, name, **({**SHORT, "LLM_TIMEOUT": "0.5"} if name in STEADY else SHORT))


@pytest.mark.parametrize(("kind", "frame"), [("asyncio", event("ping")), ("blocking", b": comment\n\n")])
def test_a_flood_that_says_nothing_ends_by_the_deadline(kind: str, frame: bytes, tmp_path: Path) -> None:
    with Rig(kind, ONE, tmp_path, floods(frame), **SHORT) as rig:
        assert rig.ask().error_type == "DeadlineExceeded"
        rig.heal()
        rig.ask_again()


ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="other kernels refuse what does not fit the queue")


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("asyncio", "TLS"),
        ("asyncio", "name"),
        ("blocking", "TLS"),
        ("blocking", "name"),
        pytest.param("blocking", "connection", marks=ON_LINUX),
    ],
)
def test_what_never_gets_through_ends_by_the_deadline(
    kind: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    def never(*_: Any, **__: Any) -> list[Any]:
        released.wait(5)
        return []

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0 if where == "connection" else 8)
        waiting = [_knocking(server) for _ in range(4 if where == "connection" else 0)]
        url = f"{'https' if where == 'TLS' else 'http'}://127.0.0.1:{server.getsockname()[1]}"
        if where == "name":
            monkeypatch.setattr(socket, "getaddrinfo", never)
            url = "http://slow.example"
        with Rig(kind, TWO, tmp_path, url=url, **SHORT) as rig:
            assert rig.ask(unheard=True).error_type == "DeadlineExceeded"
            released.set()
        for sock in waiting:
            sock.close()


def _knocking(server: socket.socket) -> socket.socket:
    """A connection that fills the server's queue; once it is full, the kernel answers nobody any more."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex(server.getsockname())
    return sock


# --- answers that are none, or only in part ---------------------------------------------------------------


NONE = [
    ("max_tokens in a tool", message([HI, NOTE], "max_tokens"), "LimitReached", ("ss", "ss")),
    ("max_tokens at once", message([], "max_tokens"), "LimitReached", ("ss", "ss")),
    ("window full", message([HI], "model_context_window_exceeded"), "ContextTooLong", ("ss", "ss")),
    ("refusal", message([HI, NOTE], "refusal"), "Refused", NOT_AGAIN),
    ("empty", message([]), "LimitReached", ("ss", "ss")),
    ("blank", message([{"type": "text", "text": " \n"}]), "LimitReached", ("ss", "ss")),
    ("no tool in it", message([HI], "tool_use"), "LimitReached", ("ss", "ss")),
    ("odd end with a tool", message([NOTE], "who_knows"), "LimitReached", ("ss", "ss")),
]


@CROSSED
def test_a_whole_answer_that_is_none(pair: tuple[str, str], tmp_path: Path) -> None:
    with Rig(*pair, tmp_path) as rig:
        rig.ask()  # a full window halves a history, so there must be one
        for name, whole, error_type, asked in NONE:
            with rig.during(Stream(whole), name):
                told = rig.ask()
                assert (told.status, told.error_type, told.asked) == ("failed", error_type, asked[0])
                assert (told.report.tool_calls, rig.notes) == ((), [])
                rig.heal()
                rig.ask_again()


def test_text_cut_by_max_tokens_is_told_and_one_can_go_on(pair: tuple[str, str], tmp_path: Path) -> None:
    with Rig(*pair, tmp_path, Stream(message([HI], "max_tokens"))) as rig:
        told = rig.ask()
        assert (told.status, told.report.degraded, told.asked) == ("degraded", ("answer",), "s")
        assert "MAX_TOKENS" in told.report.text
        rig.heal()
        assert rig.ask_again().requests[0].body["messages"][1]["content"] == [HI]


def test_an_unknown_stop_reason_ends_the_answer_and_is_flagged(pair: tuple[str, str], tmp_path: Path) -> None:
    with Rig(*pair, tmp_path, Stream(message([HI], "over\x1b[31m"))) as rig:
        told = rig.ask()
        assert (told.status, told.asked) == ("ok", "s")
        assert "unknown reason (over␛[31m)" in told.report.text
        rig.heal()
        rig.ask_again()


def test_a_void_answer_is_asked_for_once_more(pair: tuple[str, str], tmp_path: Path) -> None:
    for at, void in enumerate((message([HI, NOTE], "max_tokens"), message([HI], "tool_use"), message([]))):
        with Rig(*pair, tmp_path / str(at), Stream(void), FINE) as rig:
            told = rig.ask()
            assert (told.status, told.report.text, told.asked, rig.notes) == ("ok", "fine", "ss", [])
            assert len(rig.history) == 2  # no nudge and nothing empty stays behind
            assert rig.history[0] == Message("user", (Text("hello"),))
            rig.ask_again()


PAUSED: list[dict[str, Any]] = [
    HI,
    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "otters"}},
]


def test_a_paused_answer_is_continued_as_it_came(pair: tuple[str, str], tmp_path: Path) -> None:
    with Rig(*pair, tmp_path, Stream(message(PAUSED, "pause_turn")), FINE) as rig:
        told = rig.ask()
        assert (told.status, told.report.text, told.asked) == ("ok", f"{HI['text']}fine", "ss")
        assert told.requests[1].body["messages"][-1] == {"role": "assistant", "content": PAUSED}
        later = rig.ask_again()
        assert [block["type"] for block in later.requests[0].body["messages"][1]["content"]] == ["text", "text"]


def test_a_model_that_pauses_for_ever_is_stopped(pair: tuple[str, str], tmp_path: Path) -> None:
    with Rig(*pair, tmp_path, Stream(message(PAUSED, "pause_turn"))) as rig:
        told = rig.ask()
        assert (told.status, told.error_type, told.asked) == ("failed", "LimitReached", "s" * 6)
        rig.heal()
        rig.ask_again()


def test_of_fifty_tools_at_once_sixteen_run_and_all_are_answered(pair: tuple[str, str], tmp_path: Path) -> None:
    fifty = calls(*[("calculator", {"expression": f"{number}+1"}) for number in range(50)])
    with Rig(*pair, tmp_path, Stream(fifty), FINE) as rig:
        told = rig.ask()
        statuses = [call.status for call in told.report.tool_calls]
        assert (told.status, told.asked) == ("ok", "ss")
        assert (statuses.count("ok"), statuses.count("skipped")) == (16, 34)
        results = told.requests[1].body["messages"][-1]["content"]
        assert [result.get("is_error", False) for result in results] == [False] * 16 + [True] * 34
        rig.ask_again()


@pytest.mark.parametrize(("tools", "asked"), [(1, 12), (50, 4)])
def test_a_model_that_always_wants_one_more_tool_is_stopped(tools: int, asked: int, tmp_path: Path) -> None:
    def wanting(body: dict[str, Any]) -> Scripted:
        first = 1000 * len(body["messages"])
        sums = [("calculator", {"expression": f"{first}+{number}"}) for number in range(tools)]
        return Stream(calls(*sums, first_id=first))

    with Rig("asyncio", ONE, tmp_path, wanting) as rig:
        told = rig.ask()
        assert (told.status, told.error_type, len(told.asked)) == ("failed", "LimitReached", asked)
        rig.heal()
        rig.ask_again()


@pytest.mark.parametrize("raw", ['{"expression": NaN}', '["1"]', '{"expression":"1","expression":"2"}', '{"expr', "{}"])
def test_input_that_cannot_be_read_runs_nothing_and_is_answered(raw: str, tmp_path: Path) -> None:
    whole = message([{**NOTE, "input": raw}], "tool_use")
    with Rig("asyncio", ONE, tmp_path, Stream(whole), FINE) as rig:
        told = rig.ask()
        assert [(call.call.name, call.status) for call in told.report.tool_calls] == [("save_note", "invalid")]
        assert (told.status, told.asked, rig.notes) == ("ok", "ss", [])
        rig.ask_again()


@pytest.mark.parametrize("name", ["Save_Note", "save_nоte", "save note", "", "x" * 500, "a\x1b[31m"])
def test_a_tool_that_is_not_there_is_answered_under_a_name_the_api_takes(name: str, tmp_path: Path) -> None:
    with Rig("blocking", ONE, tmp_path, Stream(message([{**NOTE, "name": name}], "tool_use")), FINE) as rig:
        told = rig.ask()
        assert ([call.status for call in told.report.tool_calls], told.asked, rig.notes) == (["invalid"], "ss", [])
        rig.ask_again()


# --- across models and turns ------------------------------------------------------------------------------

THOUGHTS = [
    {"type": "thinking", "thinking": "15 × 23: the sümmands", "signature": "c2ln+/=="},
    {"type": "redacted_thinking", "data": "b3BhcXVl"},
]


@pytest.mark.parametrize("kind", ["asyncio", "blocking"])
def test_thinking_goes_back_word_for_word_in_the_round_with_the_tool(kind: str, tmp_path: Path) -> None:
    with Rig(kind, TWO, tmp_path, Stream(message([*THOUGHTS, SUM], "tool_use")), FINE) as rig:
        told = rig.ask()
        assert (told.status, told.asked) == ("ok", "ss")
        assert told.requests[1].body["messages"][1]["content"] == [*THOUGHTS, SUM]
        assert rig.ask_again().requests[0].body["messages"][1]["content"] == [*THOUGHTS, SUM]


@pytest.mark.parametrize("kind", ["asyncio", "blocking"])
def test_another_model_is_not_shown_thinking_it_did_not_sign(kind: str, tmp_path: Path) -> None:
    script = (Stream(message([*THOUGHTS, SUM], "tool_use")), Status(529), Stream(says("345")), FINE)
    with Rig(kind, TWO, tmp_path, *script) as rig:
        told = rig.ask()
        assert (told.status, told.asked, told.report.model) == ("ok", "ssh", "anthropic:claude-haiku-5-5")
        assert told.requests[2].body["messages"][1]["content"] == [SUM]
        assert [call.status for call in told.report.tool_calls] == ["ok"]  # once, whoever asked for it
        assert rig.ask_again().requests[0].body["messages"][1]["content"] == [*THOUGHTS, SUM]


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("asyncio", Status(529)),
        ("asyncio", Stall(ANOTHER, 9)),
        ("asyncio", Cut(ANOTHER, 9)),
        ("blocking", Status(404)),
        ("blocking", Silence()),
        ("blocking", Cut(ANOTHER, 9, how="abrupt")),
    ],
    ids=["529", "stall", "cut", "404", "mute", "abrupt"],
)
def test_a_note_is_saved_once_also_when_the_model_changes_in_mid_turn(
    kind: str, fault: Scripted, tmp_path: Path
) -> None:
    """Sonnet asks for the note and dies; haiku, who sees the result, asks for it again."""
    again = message([{**NOTE, "id": "toolu_again"}], "tool_use")
    quick = {"LLM_TIMEOUT": "0.3"} if isinstance(fault, (Silence, Stall)) else {}

    def play(body: dict[str, Any]) -> Scripted:
        asked = sum(block["type"] == "tool_use" for turn in body["messages"] for block in turn["content"])
        return (Stream(TALK), fault if "sonnet" in body["model"] else Stream(again), FINE)[asked]

    with Rig(kind, TWO, tmp_path, play, **quick) as rig:
        told = rig.ask("save a note: buy milk")
        assert (told.status, told.report.text) == ("ok", "fine")
        assert [note.read_text() for note in rig.notes] == ["buy milk"]
        assert [(call.status, call.wrote) for call in told.report.tool_calls].count(("ok", True)) >= 1
        assert [(hop.source, hop.to) for hop in told.of(FellBack)] == [tuple(TWO.split(","))]
        rig.heal()
        rig.ask_again()


@pytest.mark.parametrize("kind", ["asyncio", "blocking"])
@pytest.mark.parametrize("fault", [Status(400), Status(500), Cut(ANOTHER, 9), Stream(message([], "refusal"))])
def test_a_turn_that_fails_after_a_write_keeps_the_pair_and_says_so(kind: str, fault: Scripted, tmp_path: Path) -> None:
    def play(body: dict[str, Any]) -> Scripted:
        return Stream(message([NOTE], "tool_use")) if len(body["messages"]) == 1 else fault

    with Rig(kind, TWO, tmp_path, play) as rig:
        told = rig.ask("save a note: buy milk")
        assert (told.status, told.report.text, len(rig.notes)) == ("failed", "", 1)
        rig.heal()
        sent = rig.ask_again().requests[0].body["messages"]
        assert [turn["role"] for turn in sent] == ["user", "assistant", "user", "assistant", "user"]
        assert sent[1]["content"] == [NOTE]
        assert sent[2]["content"][0]["tool_use_id"] == NOTE["id"]
        assert sent[3]["content"] == [{"type": "text", "text": "[stopped: note saved, no answer]"}]


@pytest.mark.parametrize("kind", ["asyncio", "blocking"])
def test_a_conversation_that_is_too_long_is_halved_once(kind: str, tmp_path: Path) -> None:
    with Rig(kind, TWO, tmp_path, FINE, Status(413), FINE) as rig:
        rig.ask("x" * 1000)
        told = rig.ask("short")
        assert (told.status, told.asked) == ("ok", "ss")
        assert [len(request.body["messages"]) for request in told.requests] == [3, 1]
        assert told.of(NoticeGiven)
        assert len(rig.history) == 4


@pytest.mark.parametrize("kind", ["asyncio", "blocking"])
def test_the_first_model_is_used_again_within_its_recovery_time(kind: str, tmp_path: Path) -> None:
    def sick(body: dict[str, Any]) -> Scripted:
        return Status(500) if "sonnet" in body["model"] else FINE

    times = {"BREAKER_FAILURE_THRESHOLD": "2", "BREAKER_RECOVERY_TIMEOUT": "0.2"}
    with Rig(kind, TWO, tmp_path, sick, **times) as rig:
        assert rig.ask().asked == "ssh"
        told = rig.ask()
        assert (told.status, told.asked) == ("ok", "h")  # open: not even tried
        assert [rejected.by for rejected in told.of(CallRejected)] == ["circuit_breaker"]
        time.sleep(0.2)  # the recovery time itself is the subject
        assert rig.ask().asked == "sh"  # one probe, which fails, and no retry
        rig.heal()
        time.sleep(0.2)
        healed = rig.ask_again()
        assert (healed.asked, healed.report.model) == ("s", "anthropic:claude-sonnet-5-5")


# --- secrets and escapes ----------------------------------------------------------------------------------

HOSTILE_HEADERS = {"request-id": f"req {KEY} \x1b[31m", "server": f"\x1b]0;{KEY}\x07", "x-api-key": KEY}
HOSTILE: dict[str, Scripted] = {
    "error text": Status(500, said("api_error", FULL_OF)),
    "error type": Status(400, said(FULL_OF, FULL_OF)),
    "error in plain text": Status(500, FULL_OF.encode(), {"content-type": "text/plain"}),
    "headers": Status(400, headers=HOSTILE_HEADERS),
    "redirect": Status(302, b"", {"location": f"http://me:{KEY}@127.0.0.1:9/?key={KEY}"}),
    "content type": Status(200, b"", {"content-type": f"text/\x1b[31m{KEY}"}),
    "content coding": Status(200, b"", {**SSE, "content-encoding": f"\x1b[31m{KEY}"}),
    "error event": Stream([START, error_event(FULL_OF, FULL_OF, FULL_OF)]),
    "event name": Stream([START, f'event: {KEY}\x1b[31m\ndata: {{"type":"message_stop"}}\n\n'.encode()]),
    "stop reason": Stream(message([HI], FULL_OF)),
    "tool use without end": Stream(message([NOTE], FULL_OF)),
    "names": Stream(message([{**NOTE, "name": FULL_OF, "id": FULL_OF}], "tool_use", model=FULL_OF, id=FULL_OF)),
    "tool input": Stream(message([{**NOTE, "input": f'{{"{FULL_OF}": 1'}], "tool_use")),
    "refusal": Stream(message([], "refusal", stop_details={"type": "refusal", "explanation": FULL_OF})),
}


@pytest.mark.parametrize(("name", "kind"), [(name, ("asyncio", "blocking")[at % 2]) for at, name in enumerate(HOSTILE)])
def test_no_secret_and_no_escape_of_the_servers_is_shown_anywhere(
    name: str, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fault = HOSTILE[name]
    caplog.set_level(logging.DEBUG)
    with Rig(kind, TWO, tmp_path, fault, FINE, logger="") as rig:  # all loggers, the SDK's too, at DEBUG
        rig.ask()
        rig.ask()
        for path in (tmp_path / "state").rglob("*"):
            assert path.is_dir() or KEY.encode() not in path.read_bytes()


def test_what_the_model_says_is_shown_without_its_escapes(pair: tuple[str, str], tmp_path: Path) -> None:
    with Rig(*pair, tmp_path, Stream(says(f"hi {FULL_OF}"))) as rig:
        assert rig.ask().status == "ok"
        rig.heal()
        rig.ask_again()
