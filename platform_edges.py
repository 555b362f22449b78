"""Keeps what was saved safe, and hides where operating systems differ.  (floor 4)

Three edges: signals on an event loop, looking names up without blocking a timeout, and the
disk (`Disk`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from functools import partial
from types import FrameType

RESOLVERS_MAX = 16
"""Name look-ups under way at most; a hung name server must not fill the process with threads."""

_RESOLVER = "resolver"


def resolve_aside(host: str, port: int) -> list[str]:
    """The IP addresses of `host`, in the order the system prefers them, without duplicates.

    `getaddrinfo` cannot be interrupted: an alarm that fires inside it is handled when it returns,
    tens of seconds later. So it runs in a daemon thread, and the caller waits on a lock, which an
    alarm does interrupt. The thread left behind ends by itself and never holds the exit.

    Raises:
        socket.gaierror: the name is unknown, or the name server does not answer.
    """
    if _is_address(host):
        return [host]
    under_way = sum(thread.name == _RESOLVER for thread in threading.enumerate())
    if under_way >= RESOLVERS_MAX:
        raise socket.gaierror(socket.EAI_AGAIN, f"{under_way} name look-ups are stuck already")
    answered = threading.Event()
    found: list[str] = []
    failed: list[BaseException] = []

    def look_up() -> None:
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.extend(dict.fromkeys(str(answer[4][0]) for answer in answers))
        except OSError as error:
            failed.append(error)
        except UnicodeError:  # a label that is empty or too long for the IDNA encoding
            failed.append(socket.gaierror(socket.EAI_NONAME, "not a host name"))
        finally:
            answered.set()

    threading.Thread(target=look_up, name=_RESOLVER, daemon=True).start()
    answered.wait()
    if failed:
        raise failed[0]
    if not found:
        raise socket.gaierror(socket.EAI_NONAME, "the name has no address")
    return found


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def install_signals(
    loop: asyncio.AbstractEventLoop, handlers: Mapping[str, Callable[[], object]]
) -> Callable[[], None]:
    """Run each handler on the loop when its signal arrives; returns what undoes it.

    Args:
        loop: the running loop; call this from the main thread.
        handlers: by name, e.g. {"SIGINT": stop, "SIGHUP": leave}. Names this system lacks are skipped.

    Where a loop cannot take signals itself (Windows), a plain handler passes them on; the loop's
    own wake-up descriptor makes it notice.
    """
    undo: list[Callable[[], object]] = []
    for name, handler in handlers.items():
        number = getattr(signal, name, None)
        if number is None:
            continue
        try:
            loop.add_signal_handler(number, handler)
            undo.append(partial(loop.remove_signal_handler, number))
        except NotImplementedError:
            before = signal.signal(number, _passing_on(loop, handler))
            undo.append(partial(signal.signal, number, before))

    def undo_all() -> None:
        for step in undo:
            step()

    return undo_all


def _passing_on(
    loop: asyncio.AbstractEventLoop, handler: Callable[[], object]
) -> Callable[[int, FrameType | None], None]:
    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(handler)

    return handle
