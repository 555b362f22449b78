"""Says of every failure what it is, what it tells about the dependency, and what to do next.  (floor 0)

Every failure is classified once, at the edge where it is first seen. The table
`VERDICTS` is the whole policy; everything above asks an error for its verdict and never
looks at status codes again.

    kind      TRANSIENT may pass by itself | LOGIC the model can correct it | FATAL stop and say so
    outcome   what the circuit breaker learns: FAILURE counts against the dependency,
              THROTTLED sets a "not before", NEUTRAL says nothing, None = it was never tried
    advice    what the layers above do: retry, go to the next in the chain, stop, ...

This file imports neither anthropic nor httpx2: it reads `status_code`, `.type`,
`.error_code`, headers, and class and module names along the MRO. That keeps the parts
that people copy free of dependencies, and works with any SDK built the same way.
"""

from __future__ import annotations

import datetime
import errno
import math
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from error_words import WHAT_NOW, describe


class ErrorType(Enum):
    """What kind of failure it is: the answer of `classify_error`."""

    TRANSIENT = "transient"
    LOGIC = "logic"
    FATAL = "fatal"


class Outcome(Enum):
    """What one attempt says about the dependency it was made on."""

    SUCCESS = "success"
    FAILURE = "failure"
    THROTTLED = "throttled"
    NEUTRAL = "neutral"


class Advice(Enum):
    """What to do after a failure, before deadlines and side effects have their say."""

    RETRY = "retry"  # the same again, after a wait; then the next in the chain
    NEXT = "next"  # the next in the chain at once where there is one, else retry
    HOP = "hop"  # never the same again: the next in the chain, else fail
    NEXT_PROVIDER = "next_provider"  # another account; models of the same one share the empty purse
    CORRECT = "correct"  # back to the model, bounded
    TRIM = "trim"  # shorten the history and once more
    STOP = "stop"  # say so, no fallback


@dataclass(frozen=True, slots=True)
class Verdict:
    """One row of the table (see above). `retries_max` bounds retries below the policy's own."""

    type: str
    kind: ErrorType
    outcome: Outcome | None
    advice: Advice
    retries_max: int | None = None


_T, _L, _F = ErrorType.TRANSIENT, ErrorType.LOGIC, ErrorType.FATAL
_FAILURE, _THROTTLED, _NEUTRAL = Outcome.FAILURE, Outcome.THROTTLED, Outcome.NEUTRAL

VERDICTS: dict[str, Verdict] = {
    "connection": Verdict("ConnectionFailed", _T, _FAILURE, Advice.RETRY),
    "timeout": Verdict("TimedOut", _T, _FAILURE, Advice.RETRY),
    "server_error": Verdict("ServerError", _T, _FAILURE, Advice.RETRY),
    "overloaded": Verdict("Overloaded", _T, _FAILURE, Advice.NEXT),
    "rate_limit": Verdict("RateLimited", _T, _THROTTLED, Advice.RETRY),
    "protocol": Verdict("ProtocolBroken", _T, _FAILURE, Advice.RETRY, retries_max=1),
    "rejected": Verdict("Rejected", _T, None, Advice.HOP),
    "bad_input": Verdict("BadInput", _L, _NEUTRAL, Advice.CORRECT),
    "too_large": Verdict("ContextTooLong", _F, _NEUTRAL, Advice.TRIM),
    "bad_request": Verdict("BadRequest", _F, _NEUTRAL, Advice.STOP),
    "authentication": Verdict("AuthenticationError", _F, _NEUTRAL, Advice.STOP),
    "permission": Verdict("PermissionDenied", _F, _NEUTRAL, Advice.STOP),
    "billing": Verdict("BillingError", _F, _NEUTRAL, Advice.NEXT_PROVIDER),
    "not_found": Verdict("NotFound", _F, _NEUTRAL, Advice.HOP),
    "redirect": Verdict("RedirectRefused", _F, _NEUTRAL, Advice.STOP),
    "tls": Verdict("TlsError", _F, _NEUTRAL, Advice.STOP),
    "proxy": Verdict("ProxyError", _F, _NEUTRAL, Advice.STOP),
    "unknown_host": Verdict("UnknownHost", _F, _FAILURE, Advice.RETRY, retries_max=1),
    "plan_limit": Verdict("PlanLimit", _F, _NEUTRAL, Advice.HOP),  # a tool provider's key or plan
    "unknown_outcome": Verdict("OutcomeUnknown", _F, _FAILURE, Advice.STOP),
    "disk": Verdict("DiskError", _F, _FAILURE, Advice.STOP),
    "crashed": Verdict("Crashed", _F, _FAILURE, Advice.STOP),
    "configuration": Verdict("ConfigurationError", _F, _NEUTRAL, Advice.STOP),
    "limit": Verdict("LimitReached", _F, _NEUTRAL, Advice.STOP),
    "refusal": Verdict("Refused", _F, _NEUTRAL, Advice.STOP),
    "conflict": Verdict("Conflict", _F, _NEUTRAL, Advice.STOP),
    "poison": Verdict("PoisonTurn", _F, _NEUTRAL, Advice.STOP),
    "critical_tool": Verdict("CriticalToolFailed", _F, _NEUTRAL, Advice.STOP),
    "internal": Verdict("InternalError", _F, _NEUTRAL, Advice.STOP),
}


class AgentError(Exception):
    """Base of every error this program raises on purpose.

    Args:
        message: what happened, to what; one line, safe to show.
        reason: a key of `VERDICTS`; decides kind, outcome and advice.
        what_now: what the person can do, one sentence; may be empty.
        retry_after_s: seconds until a new try makes sense, where that is known.
        kind: overrides the table's kind (a deadline takes the kind of its last cause).
        dependency: the name of what failed, e.g. `model.anthropic.claude-sonnet-5-5`.
        status: HTTP status where there was one.
        request_id: the server's own id of the request, for its support.
        may_retry: False when the server forbade a retry (`x-should-retry: false`).
    """

    reason: str = "internal"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        what_now: str = "",
        retry_after_s: float | None = None,
        kind: ErrorType | None = None,
        dependency: str = "",
        status: int | None = None,
        request_id: str | None = None,
        may_retry: bool = True,
    ) -> None:
        super().__init__(message)
        self.message = message
        if reason is not None:
            self.reason = reason
        self.what_now = what_now
        self.retry_after_s = retry_after_s
        self.dependency = dependency
        self.status = status
        self.request_id = request_id
        self.may_retry = may_retry
        self._kind = kind

    @property
    def verdict(self) -> Verdict:
        """The row of `VERDICTS` that applies."""
        return VERDICTS[self.reason]

    @property
    def kind(self) -> ErrorType:
        """TRANSIENT, LOGIC or FATAL."""
        return self._kind or self.verdict.kind

    @property
    def type(self) -> str:
        """A stable word for programs: the `error.type` of the JSON report."""
        return self.verdict.type


class ConfigurationError(AgentError):
    """A setting, option or key is missing or wrong. Ends the program with exit 2."""

    reason = "configuration"


class Rejected(AgentError):
    """A guard said no before anything was tried: costs no attempt, no quota, no verdict."""

    reason = "rejected"


class CircuitOpen(Rejected):
    """The circuit breaker is open; `retry_after_s` says when it lets a probe through."""


class LimiterFull(Rejected):
    """The rate limiter has no token within its longest wait."""


class BulkheadFull(Rejected):
    """As many calls as allowed are under way already."""


class AttemptTimedOut(AgentError):
    """One attempt took longer than it was given.

    `limit_s` is what it was given, `silent` says that it was silence that ended it.
    """

    reason = "timeout"

    def __init__(self, limit_s: float, *, silent: bool = False) -> None:
        what = f"no answer {'for' if silent else 'within'} {round(limit_s, 2):g} s"
        super().__init__(what, what_now=WHAT_NOW["timeout"])
        self.limit_s = limit_s
        self.silent = silent


class OutcomeUnknown(AgentError):
    """A call passed its point of no return and never reported back: it may or may not have happened."""

    reason = "unknown_outcome"


class BadInput(AgentError):
    """Input that a tool cannot work with: goes back to the model to correct, blames no dependency."""

    reason = "bad_input"


class GaveUp(AgentError):
    """The deadline came or the chain ran out. Carries the real causes and the kind of the last one."""

    def __init__(self, message: str, causes: tuple[BaseException, ...], *, what_now: str = "") -> None:
        last = causes[-1] if causes else None
        wait_s = [cause.retry_after_s for cause in causes if isinstance(cause, AgentError) and cause.retry_after_s]
        super().__init__(
            message,
            reason=reason_of(last) if last else "timeout",
            kind=classify_error(last) if last else ErrorType.TRANSIENT,
            what_now=what_now or (last.what_now if isinstance(last, AgentError) else ""),
            retry_after_s=min(wait_s, default=None),
        )
        self.causes = causes

    @property
    def type(self) -> str:
        return type(self).__name__


class DeadlineExceeded(GaveUp):
    """The time of the question or the call is over; the message names the last real cause."""


class ChainExhausted(GaveUp):
    """Every link or provider failed; the message says what each said."""


# --- classification --------------------------------------------------------------------------------------

_BY_STATUS = {
    400: "bad_request", 401: "authentication", 402: "billing", 403: "permission", 404: "not_found",
    407: "proxy", 408: "timeout", 409: "server_error", 413: "too_large", 422: "bad_request",
    429: "rate_limit", 529: "overloaded",
}  # fmt: skip

# `error.type` of an error body or of an SSE error event, whose HTTP status is 200.
_BY_TYPE = {
    "invalid_request_error": "bad_request", "authentication_error": "authentication",
    "billing_error": "billing", "permission_error": "permission", "not_found_error": "not_found",
    "request_too_large": "too_large", "rate_limit_error": "rate_limit", "timeout_error": "timeout",
    "api_error": "server_error", "server_error": "server_error", "overloaded_error": "overloaded",
    "conflict_error": "server_error", "gateway_timeout_error": "server_error",
}  # fmt: skip

# Class names along the MRO; the module must be one of _CLIENTS so that a namesake is not taken for it.
_BY_CLASS = {
    "ProxyError": "proxy", "UnsupportedProtocol": "configuration", "InvalidURL": "configuration",
    "LocalProtocolError": "bad_request", "DecodingError": "protocol", "TooManyRedirects": "redirect",
    "APIResponseValidationError": "protocol", "APITimeoutError": "timeout", "TimeoutException": "timeout",
    "RemoteProtocolError": "connection", "NetworkError": "connection", "TransportError": "connection",
    "StreamError": "connection", "APIConnectionError": "connection", "CredentialsError": "authentication",
    "AnthropicError": "server_error",
}  # fmt: skip
_CLIENTS = ("anthropic", "httpx2", "httpcore2", "httpx", "httpcore", "openai")

# Compiled when first needed: together they cost 4 ms, which the start of a chat need not wait for.
_SPENT = r"credit balance|spend limit|spending limit|billing|insufficient (funds|credit)"
_TOO_LONG = r"prompt is too long|context (window|length)|too many (input )?tokens|exceed.{0,40}context"
_SPENT_CODES = r"spend_limit|credit_balance|billing|insufficient_quota"
_DISK_ERRNOS = {
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE,
    errno.ENFILE, errno.ENAMETOOLONG, errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP,
    errno.EXDEV,
}  # fmt: skip


def classify_error(error: BaseException) -> ErrorType:
    """TRANSIENT, LOGIC or FATAL for any exception: ours, the SDK's, the HTTP client's or Python's own."""
    return error.kind if isinstance(error, AgentError) else VERDICTS[reason_of(error)].kind


def outcome_of(error: BaseException) -> Outcome | None:
    """What the circuit breaker should learn from this error; None when nothing was tried."""
    return VERDICTS[reason_of(error)].outcome


def reason_of(error: BaseException) -> str:
    """The key of `VERDICTS` that fits an exception."""
    if isinstance(error, AgentError):
        return error.reason
    status = _status_of(error)
    if status is not None:
        return reason_of_response(status, _text(error, "type"), _text(error, "error_code"), str(error))
    return _reason_of_class(error)


def _status_of(error: BaseException) -> int | None:
    """The HTTP status an exception stands for: its own, or that of the answer it carries (`raise_for_status`)."""
    holders = ((error, "status_code"), (getattr(error, "response", None), "status_code"), (error, "status"))
    found = (getattr(holder, name, None) for holder, name in holders)
    return next((status for status in found if isinstance(status, int)), None)


def reason_of_response(status: int, error_type: str = "", error_code: str = "", message: str = "") -> str:
    """The reason behind an HTTP error answer, or behind an SSE error event (status 200).

    Args:
        status: the HTTP status.
        error_type: `error.type` of the body, "" where there was none.
        error_code: `error.details.error_code`, "" where there was none.
        message: the error's words; read only to find an empty purse or a full context.
    """
    if re.search(_SPENT_CODES, error_code, re.I):
        return "billing"
    reason = _BY_STATUS.get(status) or _by_class(status, error_type)
    if reason == "bad_request" and re.search(_SPENT, message, re.I):
        return "billing"
    if reason == "bad_request" and re.search(_TOO_LONG, message, re.I):
        return "too_large"
    return reason


def _by_class(status: int, error_type: str) -> str:
    """For a status without a row of its own, and for error events (200), of which only the type tells."""
    if 300 <= status < 400:
        return "redirect"
    if status >= 500:
        return "overloaded" if error_type == "overloaded_error" else "server_error"
    if status < 400:
        return _BY_TYPE.get(error_type, "server_error")
    reason = _BY_TYPE.get(error_type, "bad_request")
    return "bad_request" if reason == "server_error" else reason  # by its status it is not the server's


def _reason_of_class(error: BaseException) -> str:
    for cause in _causes(error):  # the most telling cause may be wrapped several times
        if isinstance(cause, (ssl.SSLCertVerificationError, ssl.CertificateError)):
            return "tls"
        if isinstance(cause, socket.gaierror):
            return "connection" if cause.errno == socket.EAI_AGAIN else "unknown_host"
    for name, module in ((c.__name__, c.__module__.partition(".")[0]) for c in type(error).__mro__):
        if module in _CLIENTS and name in _BY_CLASS:
            inner = error.__cause__
            if name == "APIConnectionError" and inner is not None and not isinstance(inner, AgentError):
                is_known = isinstance(inner, OSError) or type(inner).__module__.partition(".")[0] in _CLIENTS
                return _reason_of_class(inner) if is_known else "connection"
            return inner.reason if isinstance(inner, AgentError) else _BY_CLASS[name]
    return _reason_of_builtin(error)


def _reason_of_builtin(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, (ConnectionError, EOFError, ssl.SSLError)):
        return "connection"
    if isinstance(error, OSError):
        return "disk" if error.errno in _DISK_ERRNOS else "connection"
    if type(error).__name__ == "JSONDecodeError":
        return "protocol"  # rubbish where JSON was promised
    if isinstance(error, (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError)):
        return "bad_input"
    return "crashed" if isinstance(error, (MemoryError, RecursionError)) else "internal"


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _text(error: BaseException, attribute: str) -> str:
    value = getattr(error, attribute, None)
    return value if isinstance(value, str) else ""


# --- what the server says about when ---------------------------------------------------------------------


def retry_after_s(headers: Mapping[str, str], wall_s: float) -> float | None:
    """Seconds a server asks us to wait: `retry-after-ms`, or `retry-after` as seconds or as an HTTP date.

    Args:
        headers: response headers with lower-case or case-insensitive keys.
        wall_s: the wall clock in seconds since the epoch, for dates.

    Returns None when nothing usable was said: negative, infinite and garbled values count as not said.
    """
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        seconds = _number(value)
        if seconds is not None:
            return seconds * scale
        if name == "retry-after" and (at := _http_date_s(value)) is not None:
            return max(0.0, at - wall_s)
    return None


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _http_date_s(value: str) -> float | None:
    import email.utils  # 19 ms, for the rare server that names a date

    try:
        at = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return (at if at.tzinfo else at.replace(tzinfo=datetime.UTC)).timestamp()  # asctime's form names no zone


def translate(error: BaseException, dependency: str, wall_s: float) -> AgentError:
    """Turn any exception met at an edge into an AgentError that carries its advice.

    Args:
        error: what was caught; an AgentError comes back as it is, with the dependency filled in.
        dependency: the name of what failed.
        wall_s: the wall clock, for a Retry-After given as a date.
    """
    if isinstance(error, AgentError):
        error.dependency = error.dependency or dependency
        return error
    response = getattr(error, "response", None)
    headers: Any = getattr(response, "headers", None) or {}
    status, reason = _status_of(error), reason_of(error)
    return AgentError(
        describe(reason, words_of(error), status),
        reason=reason,
        dependency=dependency,
        status=status,
        request_id=_text(error, "request_id") or None,
        retry_after_s=retry_after_s(headers, wall_s),
        may_retry=headers.get("x-should-retry") != "false",
        what_now=WHAT_NOW.get(reason, ""),
    )


def words_of(error: BaseException) -> str:
    """What an exception says, raw. Broken connections of asyncio say nothing: then it is the first cause that does."""
    is_answer = _status_of(error) is not None
    causes = [error] if is_answer else _causes(error)
    words = (_text(cause, "api_message") or _text(cause, "message") or str(cause) for cause in causes)
    said = filter(None, (_BOILERPLATE.sub("", word) for word in words))
    return next(said, "" if is_answer else type(error).__name__)


# Words without news: the SDK's where a body has none of its own, and asyncio's for whatever keeps it from connecting.
_BOILERPLATE = re.compile(r"^(?:Error code: \d+(?: - )?|\[Errno -?\d+\] |All connection attempts failed$)")
