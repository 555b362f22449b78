"""Reads what a service answered, strictly: status, JSON, numbers, words.  (floor 4)

The edge where failures of tool providers are classified. For a tool, a refused key or a plan
that is used up is a reason to ask the next provider, not to stop (`plan_limit`). What a
service sends is data: numbers must be believable, words are stripped of markup and control
characters and cut. What this does not do: fetch (`fetch.py`), or judge what the words say.
"""

from __future__ import annotations

import html
import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

from error_words import describe
from errors import AgentError, BadInput, reason_of_response, retry_after_s
from flow import Flow, HttpReply, HttpRequest, fetch
from safe_text import one_line

_PLAN_STATUSES = frozenset({401, 402, 403, 432, 433})  # 432 and 433 are Tavily's: plan and pay-as-you-go limits
_PLAN_SPENT = re.compile(
    r"(hourly|daily|monthly)\b.{0,40}\blimit|quota\b.{0,20}\b(exceeded|used|exhausted|limit)|exceeds your plan", re.I
)
_MARKUP = re.compile(r"</?(?:span|strong|b|em|i|mark|p|br|a|u|code|div)(?:\s[^<>]*)?/?>", re.I)


def asking(request: HttpRequest, wall: Callable[[], float]) -> Flow[Mapping[str, Any]]:
    """Fetch, and answer the JSON object in it. AgentError for everything else."""
    reply = yield from fetch(request)
    return read_reply(reply, wall())


def read_reply(reply: HttpReply, wall_s: float) -> Mapping[str, Any]:
    """The JSON object of a good answer.

    Raises AgentError: `protocol` for rubbish with status 200, `plan_limit` for a refused key or a
    plan that is used up, else what the status means.
    """
    if reply.status != 200:
        raise _refusal(reply, wall_s)
    found = _json(reply.body)
    if not isinstance(found, dict):
        kind = one_line(reply.headers.get("content-type", "no content type"), 40)
        raise broken(f"answered without a JSON object ({kind})")
    return found


def broken(what: str) -> AgentError:
    """The error for an answer that is not what the service promises."""
    return AgentError(what, reason="protocol")


def _json(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, endless digits, endless nesting
        return None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _refusal(reply: HttpReply, wall_s: float) -> AgentError:
    body = _json(reply.body)
    said = _said(body)
    reason = "protocol" if reply.status < 300 else reason_of_response(reply.status)
    if reply.status in _PLAN_STATUSES or (reply.status == 429 and _is_plan_spent(body, said)):
        reason = "plan_limit"
    return AgentError(
        describe(reason, said, reply.status),
        reason=reason,
        status=reply.status,
        retry_after_s=retry_after_s(reply.headers, wall_s),
        what_now="Check the key and the plan of this provider." if reason == "plan_limit" else "",
    )


def _said(body: Any) -> str:
    """The words of an error body: Open-Meteo's `reason`, Tavily's `detail.error`, Brave's `error.detail`."""
    for path in (("reason",), ("detail", "error"), ("detail",), ("error", "detail"), ("error",), ("message",)):
        found = body
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, str):
            return one_line(found, 200)
    return ""


def _is_plan_spent(body: Any, said: str) -> bool:
    """Whether a 429 means "not this month" and not "not this second"."""
    error = body.get("error") if isinstance(body, dict) else None
    meta = error.get("meta") if isinstance(error, dict) else None
    if isinstance(meta, dict):  # Brave counts both in one body
        used, limit = number(meta.get("quota_current")), number(meta.get("quota_limit"))
        return used is not None and limit is not None and 0 < limit <= used
    return bool(_PLAN_SPENT.search(said))


def number(value: Any, low: float = -math.inf, high: float = math.inf) -> float | None:
    """The value when it is a finite number within the limits, else None: "21", true and 9999 are no degrees."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if low <= value <= high and abs(value) < 1e15 else None


def words(value: Any, chars_max: int) -> str:
    """One safe line of plain text: no markup, entities, control characters; "" for what is not text."""
    if not isinstance(value, str):
        return ""
    plain = html.unescape(_MARKUP.sub("", value))
    return one_line(" ".join(plain.split()), chars_max)


def asked_for(value: str, what: str, chars_max: int) -> str:
    """What the model asks for, in one line. BadInput when it is empty, too long, or no text a person types."""
    value = value.strip()
    if not value:
        raise BadInput(f"the {what} is empty", what_now=f"Give a {what}.")
    if len(value) > chars_max:
        raise BadInput(f"the {what} has {len(value)} characters", what_now=f"Use at most {chars_max}.")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise BadInput(f"the {what} contains control characters", what_now="Write it as plain text in one line.")
    return value


def address(base: str, path: str, parameters: Mapping[str, str | int] | None = None) -> str:
    """`base` followed by `path`, unless it ends so already; then the parameters."""
    base = base.rstrip("/")
    url = base if urlsplit(base).path.endswith(path) else base + path
    return f"{url}?{urlencode(parameters)}" if parameters else url
