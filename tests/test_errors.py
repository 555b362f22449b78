"""Every failure has one row of the table, whoever raised it."""

from __future__ import annotations

import json
import socket
import ssl
from typing import Any

import anthropic
import httpx2
import pytest

from error_words import describe
from errors import (
    VERDICTS,
    Advice,
    AgentError,
    AttemptTimedOut,
    BadInput,
    ChainExhausted,
    CircuitOpen,
    ConfigurationError,
    DeadlineExceeded,
    ErrorType,
    Outcome,
    classify_error,
    outcome_of,
    reason_of,
    reason_of_response,
    retry_after_s,
    translate,
)

REQUEST = httpx2.Request("POST", "http://127.0.0.1/v1/messages")


def real_status_error(status: int, error_type: str = "", message: str = "x", headers: Any = None, **more: Any) -> Any:
    """What the SDK itself raises for this answer."""
    body = {"type": "error", "error": {"type": error_type, "message": message, **more}}
    response = httpx2.Response(status, json=body, headers=headers, request=REQUEST)
    client = anthropic.Anthropic(api_key="test-key-0000", max_retries=0, base_url="http://127.0.0.1")
    return client._make_status_error_from_response(response)


@pytest.mark.parametrize(
    ("status", "error_type", "kind", "outcome", "advice"),
    [
        (400, "invalid_request_error", ErrorType.FATAL, Outcome.NEUTRAL, Advice.STOP),
        (401, "authentication_error", ErrorType.FATAL, Outcome.NEUTRAL, Advice.STOP),
        (402, "billing_error", ErrorType.FATAL, Outcome.NEUTRAL, Advice.NEXT_PROVIDER),
        (403, "permission_error", ErrorType.FATAL, Outcome.NEUTRAL, Advice.STOP),
        (404, "not_found_error", ErrorType.FATAL, Outcome.NEUTRAL, Advice.HOP),
        (408, "timeout_error", ErrorType.TRANSIENT, Outcome.FAILURE, Advice.RETRY),
        (409, "conflict_error", ErrorType.TRANSIENT, Outcome.FAILURE, Advice.RETRY),
        (413, "request_too_large", ErrorType.FATAL, Outcome.NEUTRAL, Advice.TRIM),
        (422, "invalid_request_error", ErrorType.FATAL, Outcome.NEUTRAL, Advice.STOP),
        (429, "rate_limit_error", ErrorType.TRANSIENT, Outcome.THROTTLED, Advice.RETRY),
        (500, "api_error", ErrorType.TRANSIENT, Outcome.FAILURE, Advice.RETRY),
        (502, "", ErrorType.TRANSIENT, Outcome.FAILURE, Advice.RETRY),
        (503, "", ErrorType.TRANSIENT, Outcome.FAILURE, Advice.RETRY),
        (504, "", ErrorType.TRANSIENT, Outcome.FAILURE, Advice.RETRY),
        (529, "overloaded_error", ErrorType.TRANSIENT, Outcome.FAILURE, Advice.NEXT),
        (418, "", ErrorType.FATAL, Outcome.NEUTRAL, Advice.STOP),
        (418, "api_error", ErrorType.FATAL, Outcome.NEUTRAL, Advice.STOP),
        (418, "rate_limit_error", ErrorType.TRANSIENT, Outcome.THROTTLED, Advice.RETRY),
        (302, "api_error", ErrorType.FATAL, Outcome.NEUTRAL, Advice.STOP),
        (599, "", ErrorType.TRANSIENT, Outcome.FAILURE, Advice.RETRY),
    ],
)
def test_the_sdks_status_errors(
    status: int, error_type: str, kind: ErrorType, outcome: Outcome, advice: Advice
) -> None:
    error = real_status_error(status, error_type)
    assert classify_error(error) is kind
    assert outcome_of(error) is outcome
    assert VERDICTS[reason_of(error)].advice is advice


@pytest.mark.parametrize(
    ("error_type", "reason"),
    [
        ("overloaded_error", "overloaded"),
        ("rate_limit_error", "rate_limit"),
        ("api_error", "server_error"),
        ("invalid_request_error", "bad_request"),
        ("authentication_error", "authentication"),
        ("something_new", "server_error"),
    ],
)
def test_an_error_event_in_a_stream_is_classified_by_its_type_not_its_status_of_200(
    error_type: str, reason: str
) -> None:
    assert reason_of_response(200, error_type) == reason


def test_an_empty_purse_is_never_retried_whatever_the_status() -> None:
    spent = real_status_error(429, "rate_limit_error", details={"error_code": "enforced_spend_limit_reached"})
    assert reason_of(spent) == "billing"
    credit = real_status_error(400, "invalid_request_error", "Your credit balance is too low to access the API")
    assert reason_of(credit) == "billing"


def test_a_400_about_length_means_trim() -> None:
    long = real_status_error(400, "invalid_request_error", "prompt is too long: 1000200 tokens > 1000000 maximum")
    assert reason_of(long) == "too_large"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (httpx2.ConnectError("refused"), "connection"),
        (httpx2.ReadError("reset"), "connection"),
        (httpx2.RemoteProtocolError("cut"), "connection"),
        (httpx2.ReadTimeout("slow"), "timeout"),
        (httpx2.ConnectTimeout("slow"), "timeout"),
        (httpx2.ProxyError("407"), "proxy"),
        (httpx2.DecodingError("gzip"), "protocol"),
        (httpx2.UnsupportedProtocol("ftp"), "configuration"),
        (anthropic.APITimeoutError(REQUEST), "timeout"),
        (anthropic.APIConnectionError(request=REQUEST), "connection"),
        (TimeoutError(), "timeout"),
        (ConnectionResetError(), "connection"),
        (json.JSONDecodeError("x", "y", 0), "protocol"),
        (ValueError("x"), "bad_input"),
        (TypeError("x"), "bad_input"),
        (RuntimeError("x"), "internal"),
        (MemoryError(), "crashed"),
        (RecursionError(), "crashed"),
        (OSError(28, "full"), "disk"),
        (PermissionError(13, "no"), "disk"),
        (socket.gaierror(socket.EAI_AGAIN, "later"), "connection"),
        (socket.gaierror(socket.EAI_NONAME, "none"), "unknown_host"),
        (BadInput("x"), "bad_input"),
        (CircuitOpen("x"), "rejected"),
    ],
)
def test_everybody_elses_exceptions(error: BaseException, reason: str) -> None:
    assert reason_of(error) == reason
    assert classify_error(error) is VERDICTS[reason].kind


def test_a_bad_certificate_is_found_however_deep_it_is_wrapped() -> None:
    error = anthropic.APIConnectionError(request=REQUEST)
    error.__cause__ = httpx2.ConnectError("failed")
    error.__cause__.__cause__ = ssl.SSLCertVerificationError("expired")
    assert reason_of(error) == "tls"
    assert VERDICTS["tls"].advice is Advice.STOP


def test_a_cause_inside_the_sdks_wrapper_is_what_counts() -> None:
    error = anthropic.APIConnectionError(request=REQUEST)
    error.__cause__ = httpx2.ProxyError("407")
    assert reason_of(error) == "proxy"


def test_rejections_say_nothing_about_a_dependency() -> None:
    assert outcome_of(CircuitOpen("open")) is None


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "later"}, None),
        ({"retry-after": "3600000"}, 3_600_000.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:16:50 GMT"}, 10.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:01 GMT"}, 0.0),
        ({"retry-after": "Thu Jan  1 00:16:50 1970"}, 10.0),  # asctime's form: GMT although it says no zone
        ({"retry-after": "Thu, 99 Foo 1970"}, None),
        ({}, None),
    ],
)
def test_retry_after_in_all_its_forms(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after_s(headers, wall_s=1_000.0) == expected


def test_translating_keeps_what_the_server_said() -> None:
    error = real_status_error(529, "overloaded_error", "busy", {"retry-after": "4", "request-id": "req_1"})
    ours = translate(error, "model.anthropic.m", wall_s=0)
    assert (ours.reason, ours.status, ours.retry_after_s, ours.dependency) == (
        "overloaded",
        529,
        4.0,
        "model.anthropic.m",
    )
    assert ours.request_id == "req_1"
    assert ours.may_retry


def test_x_should_retry_can_only_forbid() -> None:
    assert not translate(real_status_error(500, headers={"x-should-retry": "false"}), "d", 0).may_retry
    forced = translate(real_status_error(400, headers={"x-should-retry": "true"}), "d", 0)
    assert forced.verdict.advice is Advice.STOP


def test_an_agent_error_comes_back_as_it_is_with_the_dependency_filled_in() -> None:
    error = AttemptTimedOut(3.0, silent=True)
    assert translate(error, "d", 0) is error
    assert (error.dependency, error.message) == ("d", "no answer for 3 s")


def test_pages_and_secrets_are_never_quoted() -> None:
    assert describe("server_error", "<!DOCTYPE html><body>502</body>", 502) == "server error (502)"
    said = describe("authentication", "invalid x-api-key sk-ant-api03-abcdefghijklmnop", 401)
    assert "abcdefgh" not in said
    assert "\x1b" not in describe("server_error", "\x1b[2Jgone", 500)


def test_giving_up_takes_kind_and_words_of_the_last_cause() -> None:
    last = AgentError("overloaded (529)", reason="overloaded", retry_after_s=9.0)
    error = DeadlineExceeded("gave up after 12 s: overloaded (529), 5 tries", (ValueError("x"), last))
    assert (error.kind, error.type, error.retry_after_s) == (ErrorType.TRANSIENT, "DeadlineExceeded", 9.0)
    fatal = ChainExhausted("all failed", (last, AgentError("no", reason="billing", what_now="Add credit.")))
    assert (fatal.kind, fatal.what_now) == (ErrorType.FATAL, "Add credit.")


def test_every_reason_has_a_stable_word_for_programs() -> None:
    assert len({verdict.type for verdict in VERDICTS.values()}) == len(VERDICTS)
    assert ConfigurationError("x").type == "ConfigurationError"
