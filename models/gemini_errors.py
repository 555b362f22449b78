"""Says what an error of the Gemini API means, in the one table of all errors.  (floor 4)

    {"error": {"code": 429, "message": "...", "status": "RESOURCE_EXHAUSTED", "details": [...]}}

Pure: a status and a body in, an AgentError out. The HTTP status decides; inside a stream (200) the
error's own code or status word does. Where this API says with the same status what others say
with several, its words and details tell: a refused key is a 400 here, an overloaded model a 503.
How long to wait is in a `RetryInfo` detail, in Retry-After, or in both: then the longer one holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from error_words import WHAT_NOW, describe
from errors import AgentError, reason_of_response, retry_after_s
from safe_text import encodable

_CODES = {
    "INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "OUT_OF_RANGE": 400, "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403, "NOT_FOUND": 404, "ABORTED": 409, "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429, "CANCELLED": 500, "INTERNAL": 500, "UNKNOWN": 500, "DATA_LOSS": 500,
    "UNIMPLEMENTED": 501, "UNAVAILABLE": 503, "DEADLINE_EXCEEDED": 504,
}  # fmt: skip

_KEY = r"api[ _]key (not valid|expired|not found|is invalid)|invalid api[ _]key|API_KEY_(INVALID|EXPIRED)"
_OVERLOADED = r"overloaded|high demand|over capacity"
_TOO_LONG = r"token count.{0,60}exceeds|exceeds the maximum number of (input )?tokens"
_SPENT = r"BILLING_DISABLED|credits? (is|are) depleted|requires billing|enable billing|prepay"
_SECONDS = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)s")


def error_of(status: int, body: Any, headers: Mapping[str, str] | None = None, wall_s: float = 0.0) -> AgentError:
    """The error behind an answer of this API that is none.

    Args:
        status: the HTTP status; 200 for an error inside a stream.
        body: the decoded body; anything that is no error of this API says nothing.
        headers: of the answer, for Retry-After.
        wall_s: the wall clock in seconds, for a Retry-After given as a date.
    """
    if isinstance(body, list):  # how a stream that is not read as events tells its error
        body = body[0] if body else None
    error = body.get("error") if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {}
    words = _word(error.get("message"))
    details = list(_details(error))
    reason = _reason(status if status != 200 else _code(error), words, details)
    headers = headers or {}
    waits_s = [retry_after_s(headers, wall_s), *map(_retry_delay_s, details)]
    return AgentError(
        describe(reason, words or _word(error.get("status")), status),
        reason=reason,
        status=status if status != 200 else None,
        request_id=headers.get("x-request-id"),
        retry_after_s=max((wait_s for wait_s in waits_s if wait_s is not None), default=None),
        what_now="Check GEMINI_API_KEY." if reason == "authentication" else WHAT_NOW.get(reason, ""),
    )


def _code(error: Mapping[str, Any]) -> int:
    word = error.get("status")
    if isinstance(word, str) and word in _CODES:
        return _CODES[word]
    code = error.get("code")
    known = isinstance(code, int) and not isinstance(code, bool) and 400 <= code < 600
    return code if known and isinstance(code, int) else 500


def _reason(code: int, words: str, details: list[Mapping[str, Any]]) -> str:
    told = " ".join([words, *(_word(detail.get("reason")) for detail in details)])
    if code in (400, 403) and re.search(_KEY, told, re.I):
        return "authentication"
    if code in (400, 403, 429) and re.search(_SPENT, told, re.I):
        return "billing"
    if code == 400 and re.search(_TOO_LONG, told, re.I):
        return "too_large"
    if code == 503 and re.search(_OVERLOADED, told, re.I):
        return "overloaded"
    return reason_of_response(code, message=words)


def _details(error: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    details = error.get("details")
    yield from (detail for detail in details if isinstance(detail, dict)) if isinstance(details, list) else ()


def _retry_delay_s(detail: Mapping[str, Any]) -> float | None:
    """Of a RetryInfo: "13s", "0.5s"."""
    match = _SECONDS.fullmatch(_word(detail.get("retryDelay")))
    return float(match[1]) if match else None


def _word(value: Any) -> str:
    return encodable(value) if isinstance(value, str) else ""
