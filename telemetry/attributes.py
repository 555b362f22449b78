"""The names under which traces tell what happened, and how words become attributes.  (floor 4)

Where OpenTelemetry's GenAI conventions have a name, it is theirs, so that an exporter is one
more listener and nothing has to be renamed. They are written down here and not imported: all of
them are still "Development", and the packaged constants are deprecated since they moved to
open-telemetry/semantic-conventions-genai. Names under `unflappable.` are our own.
An attribute that is not known is absent: it is never 0, "" or null.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from events import AttemptFailed, AttemptStarted, Event, ModelAnswered, TurnEnded
from messages import CallResult, ToolUse, Usage
from telemetry.spans import kept_json, kept_text

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
AGENT = "gen_ai.agent.name"
CONVERSATION = "gen_ai.conversation.id"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
FIRST_TOKEN_S = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS = "gen_ai.usage.cache_write.input_tokens"
TOOL_NAME = "gen_ai.tool.name"
TOOL_TYPE = "gen_ai.tool.type"
TOOL_CALL_ID = "gen_ai.tool.call.id"
TOOL_ARGUMENTS = "gen_ai.tool.call.arguments"
TOOL_RESULT = "gen_ai.tool.call.result"
ERROR_TYPE = "error.type"
HTTP_STATUS = "http.response.status_code"
USER = "user.id"

DEPENDENCY = "unflappable.dependency"
ATTEMPT = "unflappable.attempt.number"
ATTEMPTS_MAX = "unflappable.attempt.of"
ATTEMPTS = "unflappable.attempts"
OUTCOME = "unflappable.outcome"
ERROR_KIND = "unflappable.error.kind"
ERROR_MESSAGE = "unflappable.error.message"
REQUEST_ID = "unflappable.request.id"
REQUEST_SHAPE = "unflappable.request.shape"
COST_USD = "unflappable.cost_usd"
LIMIT_S = "unflappable.limit_s"
QUESTION = "unflappable.question"
ANSWER = "unflappable.answer"
DEGRADED = "unflappable.degraded"
SOURCE = "unflappable.source"
PROBLEM = "unflappable.problem"
UNTRUSTED = "unflappable.untrusted"
WROTE = "unflappable.wrote"
FATAL = "unflappable.fatal"

_OTEL_PROVIDERS = {"google": "gcp.gemini"}  # the conventions' own word for the Gemini API


def event_name(kind: type[Event]) -> str:
    """An event's name in logs and traces: CircuitOpened is `circuit_opened`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


def is_model(dependency: str) -> bool:
    """Whether a dependency is a model link (`model.<provider>.<model>`) and not a tool's provider."""
    return dependency.partition(".")[0] == "model"


def of_attempt(event: AttemptStarted) -> dict[str, Any]:
    """Of an attempt that begins; a model's in the conventions' words too."""
    common = {DEPENDENCY: event.dependency, ATTEMPT: event.number, ATTEMPTS_MAX: event.of}
    if not is_model(event.dependency):
        return common
    _, _, link = event.dependency.partition(".")
    provider, _, model = link.partition(".")
    provider = provider or "unknown"
    return {
        OPERATION: "chat",
        PROVIDER: _OTEL_PROVIDERS.get(provider, provider),
        REQUEST_MODEL: model or provider,  # the practice model has one name for both
        **common,
    }


def of_failure(event: AttemptFailed) -> dict[str, Any]:
    """Of an attempt that failed."""
    return _known(
        {
            ERROR_TYPE: event.reason,
            ERROR_KIND: event.kind,
            OUTCOME: event.outcome,
            ERROR_MESSAGE: kept_text(event.message),
            HTTP_STATUS: event.status,
            REQUEST_ID: kept_text(event.request_id) if event.request_id else None,
        }
    )


def of_model_answer(event: ModelAnswered) -> dict[str, Any]:
    """Of a model's complete answer."""
    return _known(
        {
            RESPONSE_MODEL: kept_text(event.model),
            FINISH_REASONS: [kept_text(event.stop_reason)],
            FIRST_TOKEN_S: event.first_token_s,
            COST_USD: event.cost_usd,
            **_of_usage(event.usage),
        }
    )


def of_call(call: ToolUse) -> dict[str, Any]:
    """Of a tool call: what was asked. Input that could not be parsed is kept as the text it was."""
    return _known(
        {
            OPERATION: "execute_tool",
            TOOL_NAME: kept_text(call.name),
            TOOL_TYPE: "function",
            TOOL_CALL_ID: kept_text(call.id),
            TOOL_ARGUMENTS: kept_text(call.raw) if call.problem else kept_json(call.input),
            PROBLEM: kept_text(call.problem) if call.problem else None,
        }
    )


def of_result(result: CallResult) -> dict[str, Any]:
    """Of a tool call that ended: what came of it. Flags stand there only when they are up."""
    return of_call(result.call) | _known(
        {
            TOOL_RESULT: kept_text(result.output),
            ATTEMPTS: result.attempts,
            SOURCE: kept_text(result.source) if result.source else None,
            ERROR_TYPE: None if result.status in ("ok", "degraded") else result.status,
            UNTRUSTED: result.untrusted or None,
            WROTE: result.wrote or None,
            FATAL: result.fatal or None,
        }
    )


def of_end(event: TurnEnded) -> dict[str, Any]:
    """Of a question that ended."""
    return _known(
        {
            ANSWER: kept_text(event.text),
            RESPONSE_MODEL: event.model,
            COST_USD: event.cost_usd,
            DEGRADED: [kept_text(tool) for tool in event.degraded] or None,
            ERROR_TYPE: event.error_type,
            **_of_usage(event.usage),
        }
    )


def _of_usage(usage: Usage) -> dict[str, Any]:
    """The conventions count cached tokens among the input tokens, the Messages API beside them."""
    cached = (usage.cache_read_tokens or 0) + (usage.cache_write_tokens or 0)
    return {
        INPUT_TOKENS: None if usage.input_tokens is None else usage.input_tokens + cached,
        OUTPUT_TOKENS: usage.output_tokens,
        CACHE_READ_TOKENS: usage.cache_read_tokens,
        CACHE_WRITE_TOKENS: usage.cache_write_tokens,
    }


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
