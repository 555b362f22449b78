"""Who is let in: hosts, methods, bodies and the token, as a table."""

from __future__ import annotations

import pytest

from sidecar.access import Headers, Rules, is_host_allowed, refuse

LISTED = frozenset({"agent.example.org"})


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "localhost:8080", "LOCALHOST", "localhost.", "127.0.0.1", "127.0.0.1:8080", "10.244.0.7:8080",
        "192.168.1.4", "[::1]", "[::1]:8080", "[fd00:10:244::7]:8080", "[2001:DB8::1]", "[::ffff:10.0.0.1]:80",
        "agent.example.org", "Agent.Example.ORG:443", "agent.example.org.",
    ],
)  # fmt: skip
def test_a_host_that_no_name_server_chose_is_let_in(host: str) -> None:
    assert is_host_allowed(host, LISTED)


@pytest.mark.parametrize(
    "host",
    [
        "", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil.agent.example.org", "2130706433",
        "127.1", "0x7f.0.0.1", "0177.0.0.1", "127.0.0.1@evil.example", "evil.example:127.0.0.1", "user@127.0.0.1",
        "::1", "[::1", "::1]", "[::1]evil", "[evil.example]", "[127.0.0.1]", "[]", "127.0.0.1:80:80", "127.0.0.1:x",
        "localhost ", " localhost", "localhost\t", "127.0.0.1:123456", "１２７.0.0.1", "localhost/",
        "localhost,evil.example", "[fe80::1%25evil.example]", "..", "localhost..",
    ],
)  # fmt: skip
def test_every_other_host_is_refused(host: str) -> None:
    assert not is_host_allowed(host, LISTED)


def status(
    method: str = "GET",
    path: str = "/metrics",
    rules: Rules = Rules(),  # noqa: B008  # frozen
    headers: Headers = ((b"host", b"127.0.0.1"),),
) -> int | None:
    refusal = refuse(method, path, headers, rules)
    return None if refusal is None else refusal.status


def with_token(*values: bytes) -> Headers:
    return [(b"host", b"127.0.0.1"), *((b"authorization", value) for value in values)]


FAR = Rules(beyond_loopback=True, token="open-sesame")
CLOSED = Rules(beyond_loopback=True)


def test_no_host_and_two_hosts_are_refused() -> None:
    assert status(headers=[]) == 403
    assert status(headers=[(b"host", b"127.0.0.1"), (b"host", b"127.0.0.1")]) == 403
    assert status(path="/health/live", headers=[(b"host", b"evil.example")]) == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "BREW"])
def test_only_get_and_head_are_answered(method: str) -> None:
    refusal = refuse(method, "/health/live", [(b"host", b"localhost")], Rules())
    assert refusal is not None
    assert refusal.status == 405
    assert ("allow", "GET, HEAD") in refusal.headers


@pytest.mark.parametrize("header", [(b"content-length", b"1"), (b"transfer-encoding", b"chunked")])
def test_a_body_is_refused_and_ends_the_connection(header: tuple[bytes, bytes]) -> None:
    refusal = refuse("GET", "/health/live", [(b"host", b"localhost"), header], Rules())
    assert refusal is not None
    assert refusal.status == 413
    assert ("connection", "close") in refusal.headers


def test_an_empty_body_is_none() -> None:
    assert status(headers=[(b"host", b"localhost"), (b"content-length", b"0")]) is None


@pytest.mark.parametrize("path", ["/metrics", "/traces", "/traces/1", "/", "/nowhere", "/health", "//health/live"])
def test_on_this_machine_nothing_needs_the_token_and_beyond_it_everything_but_health_does(path: str) -> None:
    assert status(path=path) is None
    assert status(path=path, rules=Rules(token="open-sesame")) is None
    assert status(path=path, rules=FAR) == 401
    assert status(path=path, rules=FAR, headers=with_token(b"Bearer open-sesame")) is None
    assert status(path=path, rules=CLOSED) == 403
    assert status(path=path, rules=CLOSED, headers=with_token(b"Bearer ")) == 403


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/health/nowhere"])
def test_health_never_needs_the_token(path: str) -> None:
    assert status(path=path, rules=FAR) is None
    assert status(path=path, rules=CLOSED) is None


@pytest.mark.parametrize("value", [b"bearer open-sesame", b"BEARER   open-sesame", b"Bearer open-sesame "])
def test_the_token_may_be_said_as_the_rfc_allows(value: bytes) -> None:
    assert status(rules=FAR, headers=with_token(value)) is None


@pytest.mark.parametrize(
    "values",
    [
        [b""], [b"Bearer"], [b"Bearer "], [b"Bearer open-sesam"], [b"Bearer open-sesame1"], [b"open-sesame"],
        [b"Basic open-sesame"], [b"Bearer open-sesame x"], [b"Bearer OPEN-SESAME"], [b"Bearer \xff\xfe"],
        [b"Bearer open-sesame", b"Bearer open-sesame"],
    ],
)  # fmt: skip
def test_every_other_token_is_refused_and_the_scheme_is_named(values: list[bytes]) -> None:
    refusal = refuse("GET", "/traces", with_token(*values), FAR)
    assert refusal is not None
    assert refusal.status == 401
    assert refusal.headers == (("www-authenticate", "Bearer"),)
    assert "open-sesame" not in refusal.error
