"""Puts a failure into words: what happened, in a short safe sentence, and what the person can do now.  (floor 0)

The keys are those of `errors.VERDICTS`; a reason without a row here is said by its own name. What
this does not do: decide anything. What a server or a library said is quoted in one line, and HTML not at all.
"""

from __future__ import annotations

import re

from safe_text import one_line

WHAT_NOW = {
    "authentication": "Check the API key.",
    "permission": "Check what this API key is allowed to use.",
    "billing": "Add credit or raise the spend limit of this account.",
    "not_found": "Check the model name in MODEL_CHAIN or --model.",
    "tls": "Check the clock and the certificates here; on minimal systems install ca-certificates.",
    "proxy": "Check HTTPS_PROXY and what the proxy allows.",
    "unknown_host": "Check the base URL and the name server.",
    "redirect": "Check the base URL: the server answers with a redirect, which is not followed.",
    "connection": "Check the network connection, then ask again.",
    **dict.fromkeys(("timeout", "server_error", "overloaded"), "Ask again in a moment."),
    "rate_limit": "Wait a moment, or lower the rate of questions.",
    "protocol": "Ask again; if it stays, check the base URL and what stands between here and the API.",
    "bad_request": "Look at the trace for the shape of the request, or start anew.",
    "too_large": "Ask a shorter question or start anew.",
}

_SAID = {
    "rate_limit": "rate limited", "overloaded": "overloaded", "server_error": "server error",
    "authentication": "the API key was refused", "permission": "permission denied", "billing": "no credit left",
    "not_found": "not found", "bad_request": "the request was refused", "too_large": "too long for the model",
    "connection": "connection failed", "timeout": "timed out", "protocol": "not the answer of the API",
    "tls": "certificate refused", "proxy": "the proxy refused", "unknown_host": "unknown host",
    "redirect": "answered with a redirect",
}  # fmt: skip


def describe(reason: str, words: str = "", status: int | None = None) -> str:
    """A short safe sentence for a failure: "overloaded (529): try later"; HTML bodies are never shown."""
    said = _SAID.get(reason, reason.replace("_", " "))
    said = f"{said} ({status})" if status and status != 200 else said
    words = re.sub(r"^\[Errno -?\d+\] ", "", words)
    words = "" if re.search(r"^\s*<|<\s*(!doctype|html|body|head)", words, re.I) else one_line(words)
    return f"{said}: {words}" if words and words.lower() != said else said
