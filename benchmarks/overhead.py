"""What all guards together cost one question, against the loop of the SDK's own pages.

A server on the loopback answers at once, so that everything a question takes is the client's
doing; with a real model, which takes a thousand times as long, the same difference drowns.
Everybody sends the same request: the agent's instructions, its tools, one question.

What the ratio compares: our performer reads the bytes itself and does not build the SDK's
objects, which is where most of the SDK's time goes. So the row without guards stands beside
it: the difference between ours and that one is what the guards take.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from benchmarks.breakers import nothing_async
from benchmarks.measuring import OURS, Contender, Contest, Result, measured
from benchmarks.messages_server import serving
from config import Settings
from core.instructions import INSTRUCTIONS
from deadline import Deadline
from messages import Message, ModelRequest, Text
from models.chain import asking, converse, parse_chain
from models.wire import params
from wiring import AsyncAgent

QUESTION = "What keeps a program working while what it depends on fails?"
CHAIN = "anthropic:claude-sonnet-5-5"
KEY = "sk-benchmark"
ROUNDS = 300


async def run(rounds: int | None = None) -> list[Result]:
    """Start the server and measure."""
    with serving() as url, tempfile.TemporaryDirectory() as folder:
        async with contest(url, Path(folder)) as one:
            return [await measured(one, rounds=rounds)]


@contextlib.asynccontextmanager
async def contest(base_url: str, folder: Path) -> AsyncIterator[Contest]:
    """The contest, against the server at `base_url`; clients are closed at the end."""
    import anthropic

    settings = Settings(
        anthropic_api_key=KEY,
        anthropic_base_url=base_url,
        model_chain=CHAIN,
        rate_limit_per_minute=1e6,  # on, and never in the way
        rate_limit_burst=10**6,
        notes_dir=folder / "notes",
        state_dir=folder / "state",
    )
    agent = AsyncAgent(settings)
    client = anthropic.AsyncAnthropic(api_key=KEY, base_url=base_url)
    request = ModelRequest(
        INSTRUCTIONS, (Message("user", (Text(QUESTION),)),), agent.toolbox.specs, settings.max_tokens
    )
    try:
        yield Contest(
            name="question",
            title="one question to a model, no faults",
            function=nothing_async,
            is_async=True,
            aim=1.05,
            rounds=ROUNDS,
            contenders=[
                Contender("anthropic", "client.messages.stream(...), text_stream", _streamed(client, request)),
                Contender(OURS, "models.chain.asking: all guards, no faults", _guarded(agent, request)),
                Contender(f"{OURS}, no guards", "models.chain.converse: one attempt", _unguarded(agent, request)),
                Contender(f"{OURS}, all of it", "AsyncAgent.ask: turn, history, trace, log", _asked(agent)),
                Contender("anthropic, raw events", "client.messages.create(stream=True)", _raw(client, request)),
            ],
        )
    finally:
        await client.close()
        await agent.aclose()


def _streamed(client: Any, request: ModelRequest) -> Any:
    body = params(request, parse_chain(CHAIN)[0])
    del body["stream"]

    async def call() -> str:
        pieces = []
        async with client.messages.stream(**body) as stream:
            async for text in stream.text_stream:
                pieces.append(text)
            await stream.get_final_message()
        return "".join(pieces)

    return lambda _: call


def _raw(client: Any, request: ModelRequest) -> Any:
    body = params(request, parse_chain(CHAIN)[0])

    async def call() -> str:
        pieces = []
        async for event in await client.messages.create(**body):
            if event.type == "content_block_delta" and event.delta.type == "text_delta":
                pieces.append(event.delta.text)
        return "".join(pieces)

    return lambda _: call


def _guarded(agent: AsyncAgent, request: ModelRequest) -> Any:
    settings = agent.settings

    async def call() -> str:
        deadline = Deadline.after(time.monotonic(), settings.total_timeout_s)
        reply = await agent.door.run(
            asking(
                request,
                agent.links,
                agent.guards,
                deadline=deadline,
                now=time.monotonic,
                llm_timeout_s=settings.llm_timeout_s,
            )
        )
        return reply.text

    return lambda _: call


def _unguarded(agent: AsyncAgent, request: ModelRequest) -> Any:
    async def call() -> str:
        reply = await agent.door.run(converse(request, agent.links[0]))
        return reply.text

    return lambda _: call


def _asked(agent: AsyncAgent) -> Any:
    async def call() -> str:
        agent.new_session()
        answer = await agent.ask(QUESTION)
        return answer.report.text

    return lambda _: call
