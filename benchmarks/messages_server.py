"""A Messages API on the loopback that gives every question the same streamed answer, at once.

It stands in a process of its own, so that its work is not done by the program that is
measured. It checks nothing and fails never: whoever wants failures wants `--fault`.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from models.practice.protocol import sse_events

ANSWER = (
    "A retry asks the same dependency once more after a failure that may pass. A circuit breaker stops asking one "
    "that keeps failing. A rate limiter keeps us under what a server allows, a bulkhead keeps one slow dependency "
    "from taking all there is, and a deadline keeps every one of them from taking longer than we have."
)

_MESSAGE = {
    "id": "msg_benchmark",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-5-5",
    "content": [{"type": "text", "text": ANSWER}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 1200, "output_tokens": 70},
}


def response() -> bytes:
    """The whole answer as it goes over the wire, one chunk an event."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = [b"%x\r\n%s\r\n" % (len(frame), frame) for frame in sse_events(_MESSAGE)]
    return head + b"".join(chunks) + b"0\r\n\r\n"


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """The base URL of a server that runs as long as the block does."""
    command = [sys.executable, "-m", "benchmarks.messages_server"]
    root = Path(__file__).parent.parent
    server = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with server:  # its end closes the pipe, which ends the server
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    answer = response()
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):  # the client has gone
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            writer.write(answer)
            await writer.drain()
    writer.close()


async def _serve() -> None:
    server = await asyncio.start_server(_answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until whoever started us ends
    server.close()


if __name__ == "__main__":
    asyncio.run(_serve())
