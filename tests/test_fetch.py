"""Fetching: only what the settings name, never too much, and every failure by its name."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doors.aio import AsyncDoor
from doors.blocking import BlockingDoor
from errors import AgentError, AttemptTimedOut
from fetch import Body, FetchAsync, FetchBlocking, _by_turns, is_public, origin_of
from flow import Fetch, HttpReply, HttpRequest, attempt, fetch
from tests.fake_web import FakeWeb, Said, said, said_gzip

Fetching = Callable[..., HttpReply]


@pytest.fixture
def web() -> Iterator[FakeWeb]:
    with FakeWeb() as server:
        yield server


@pytest.fixture(params=["blocking", "asyncio"])
def fetching(request: pytest.FixtureRequest) -> Fetching:
    """Both performers under one face: `fetching(request, allowed, **options)`."""

    def run(asked: HttpRequest, allowed: list[str], **options: Any) -> HttpReply:
        if request.param == "blocking":
            return FetchBlocking(allowed, **options)(Fetch(asked), None)  # type: ignore[arg-type]
        return asyncio.run(FetchAsync(allowed, **options)(Fetch(asked), None))  # type: ignore[arg-type]

    return run


def refused(fetching: Fetching, asked: HttpRequest, allowed: list[str], **options: Any) -> AgentError:
    with pytest.raises(AgentError) as caught:
        fetching(asked, allowed, **options)
    return caught.value


def test_an_answer_comes_back_whole_with_status_and_headers(fetching: Fetching, web: FakeWeb) -> None:
    web.on("/a", said({"hello": "wörld"}, 503, **{"Retry-After": "3"}))
    reply = fetching(HttpRequest("GET", f"{web.url}/a?q=1", {"X-Key": "k"}), [web.url])
    assert (reply.status, reply.headers["retry-after"], json.loads(reply.body)) == (503, "3", {"hello": "wörld"})
    assert web.asked[0].query == {"q": "1"}
    assert web.asked[0].headers["x-key"] == "k"
    assert web.asked[0].headers["host"] == f"127.0.0.1:{web.port}"
    assert "unflappable" in web.asked[0].headers["user-agent"]


def test_a_body_is_sent_as_json(fetching: Fetching, web: FakeWeb) -> None:
    web.on("/a", said({}))
    fetching(HttpRequest("POST", f"{web.url}/a", body={"query": "ü"}), [web.url])
    assert web.asked[0].body == {"query": "ü"}
    assert web.asked[0].method == "POST"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/latest",
        "http://169.254.169.254/latest/meta-data",
        "http://example.org/",
        "https://127.0.0.1:{port}/",
        "http://localhost:{port}/",
        "http://127.0.0.1:{port}@example.org/",
        "http://example.org:{port}/",
        "file:///etc/passwd",
    ],
)
def test_nothing_but_the_services_of_the_settings_is_fetched(fetching: Fetching, web: FakeWeb, url: str) -> None:
    error = refused(fetching, HttpRequest("GET", url.format(port=web.port)), [web.url])
    assert error.reason == "configuration"
    assert "not fetched" in error.message
    assert web.asked == []


def test_a_redirect_comes_back_and_is_not_followed(fetching: Fetching, web: FakeWeb) -> None:
    web.on("/a", said({}, 302, Location=f"{web.url}/b"))
    reply = fetching(HttpRequest("GET", f"{web.url}/a"), [web.url])
    assert reply.status == 302
    assert web.paths() == ["/a"]


def test_a_name_is_resolved_aside_and_kept_in_the_host_header(fetching: Fetching, web: FakeWeb) -> None:
    web.on("/a", said({}))
    base = f"http://localhost:{web.port}"
    assert fetching(HttpRequest("GET", f"{base}/a"), [base]).status == 200
    assert web.asked[0].headers["host"] == f"localhost:{web.port}"


def test_a_public_service_that_resolves_to_this_machine_is_refused(fetching: Fetching, web: FakeWeb) -> None:
    base = f"http://localhost:{web.port}"
    error = refused(fetching, HttpRequest("GET", base), [base], public=frozenset({base}))
    assert "not a public address" in error.message
    assert web.asked == []


def test_an_answer_over_the_limit_is_refused_and_not_kept(fetching: Fetching, web: FakeWeb) -> None:
    web.on("/a", Said(200, b"x" * 1001))
    error = refused(fetching, HttpRequest("GET", f"{web.url}/a", bytes_max=1000), [web.url])
    assert (error.reason, "more than 1,000 bytes" in error.message) == ("protocol", True)
    web.on("/a", Said(200, b"x" * 1000))
    assert len(fetching(HttpRequest("GET", f"{web.url}/a", bytes_max=1000), [web.url]).body) == 1000


def test_the_limit_holds_for_decompressed_bytes(fetching: Fetching, web: FakeWeb) -> None:
    web.on("/bomb", said_gzip(b"\0" * 10_000_000))
    assert "more than" in refused(fetching, HttpRequest("GET", f"{web.url}/bomb"), [web.url]).message
    web.on("/fine", said_gzip(b'{"a": 1}'))
    assert fetching(HttpRequest("GET", f"{web.url}/fine"), [web.url]).body == b'{"a": 1}'


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Said(200, b"x" * 100, cut=40), "connection"),
        (Said(200, b"x" * 100, cut=40, reset=True), "connection"),
        (Said(200, b"not gzip", {"Content-Encoding": "gzip"}), "protocol"),
        (Said(200, gzip.compress(b"x" * 100)[:-9], {"Content-Encoding": "gzip"}), "protocol"),
        (Said(200, gzip.compress(b"x") + b"more", {"Content-Encoding": "gzip"}), "protocol"),
        (Said(200, b"x", {"Content-Encoding": "br"}), "protocol"),
    ],
)
def test_cut_and_damaged_answers_are_failures(fetching: Fetching, web: FakeWeb, answer: Said, reason: str) -> None:
    web.on("/a", answer)
    assert refused(fetching, HttpRequest("GET", f"{web.url}/a"), [web.url]).reason == reason


def test_a_closed_port_is_a_failed_connection(fetching: Fetching) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert refused(fetching, HttpRequest("GET", url), [url]).reason == "connection"


def test_the_next_address_is_tried_when_one_does_not_answer(
    fetching: Fetching, web: FakeWeb, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, found = socket.getaddrinfo, ["127.0.0.2", "127.0.0.1"]

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "two.test":
            return real(host, port, *args, **kwargs)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    base = f"http://two.test:{web.port}"
    web.on("/a", said({}))
    assert fetching(HttpRequest("GET", f"{base}/a"), [base]).status == 200
    found[:] = ["127.0.0.2", "127.0.0.3"]
    assert refused(fetching, HttpRequest("GET", f"{base}/a"), [base]).reason == "connection"


def test_a_service_that_never_answers_is_ended_by_its_attempt_in_every_door(web: FakeWeb) -> None:
    web.on("/a", Said(hang=True))
    asked = HttpRequest("GET", f"{web.url}/a")
    with pytest.raises(AttemptTimedOut):
        BlockingDoor({Fetch: FetchBlocking([web.url])}).run(attempt(fetch(asked), 0.2))
    with pytest.raises(AttemptTimedOut):
        asyncio.run(AsyncDoor({Fetch: FetchAsync([web.url])}).run(attempt(fetch(asked), 0.2)))


def test_a_name_that_does_not_exist_is_an_unknown_host(fetching: Fetching) -> None:
    error = refused(fetching, HttpRequest("GET", "http://a..invalid/"), ["http://a..invalid/"])
    assert error.reason in ("unknown_host", "configuration")


def test_a_proxy_of_an_unknown_kind_is_named_without_its_password(
    fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "socks5://me:hunter22@127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "socks5://me:hunter22@127.0.0.1:1")
    error = refused(fetching, HttpRequest("GET", "http://service.test/"), ["http://service.test/"])
    assert error.reason == "proxy"
    assert "hunter22" not in error.message


def test_a_proxy_is_asked_by_name_and_never_for_loopback(
    fetching: Fetching, web: FakeWeb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", web.url)
    web.on("/a", said({}))
    assert fetching(HttpRequest("GET", "http://service.test/a"), ["http://service.test"]).status == 200
    assert web.asked[0].headers["host"] == "service.test"
    fetching(HttpRequest("GET", f"{web.url}/a"), [web.url])
    assert web.asked[1].headers["host"] == f"127.0.0.1:{web.port}"


@given(
    st.binary(max_size=2000),
    st.booleans(),
    st.lists(st.integers(1, 400), max_size=20),
    st.integers(0, 2500),
)
def test_a_body_in_any_pieces_is_whole_or_refused(data: bytes, zipped: bool, cuts: list[int], limit: int) -> None:
    raw = gzip.compress(data) if zipped else data
    body = Body({"content-encoding": "gzip"} if zipped else {}, limit)
    pieces: list[bytes] = []
    for size in cuts:
        pieces.append(raw[:size])
        raw = raw[size:]
    try:
        for piece in [*pieces, raw]:
            body.feed(piece)
        assert body.finish() == data
        assert len(data) <= limit
    except AgentError:
        assert len(data) > limit


def test_a_bomb_is_never_blown_up_in_memory() -> None:
    packed = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packed.compress(b"\0" * 1_000_000) for _ in range(40)) + packed.flush()
    body = Body({"content-encoding": "gzip"}, 1000)
    with pytest.raises(AgentError):
        body.feed(bomb)
    assert len(body._body) <= 1001


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True), ("2606:2800:220:1:248:1893:25c8:1946", True), ("198.18.3.4", True),
        ("127.0.0.1", False), ("10.1.2.3", False), ("192.168.0.1", False), ("169.254.169.254", False),
        ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False), ("::1", False), ("fe80::1%eth0", False),
        ("fd00::1", False), ("::ffff:127.0.0.1", False), ("::ffff:8.8.8.8", True), ("::", False),
    ],
)  # fmt: skip
def test_private_addresses_are_known(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_both_families_of_addresses_get_a_turn() -> None:
    assert _by_turns(["::1", "::2", "::3", "1.1.1.1", "2.2.2.2"]) == ["::1", "1.1.1.1", "::2", "2.2.2.2", "::3"]
    assert _by_turns(["1.1.1.1", "::1"]) == ["1.1.1.1", "::1"]
    assert _by_turns([]) == []


def test_an_origin_has_one_spelling() -> None:
    same = ["https://API.example.org", "https://api.example.org:443/v1/x", "https://u:p@api.example.org/"]
    assert len({origin_of(httpx2.URL(url)) for url in same}) == 1
    assert origin_of(httpx2.URL("http://api.example.org")) != origin_of(httpx2.URL(same[0]))
