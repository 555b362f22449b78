"""Sends alerts from a thread of its own, so that neither the prompt nor the exit waits for a webhook.  (floor 5)

    send(alert) -> bounded queue -> daemon thread with a loop of its own -> oversight/alerts.py -> webhook

The same for both agents: the blocking one has no loop, and the one on asyncio closes its own as soon
as the last question is answered. The thread begins with the first alert. Its events go to the log
only, since the screen belongs to whoever is typing by then. What this does not do: decide (`aftermath.py`).
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable

from doors.aio import AsyncDoor
from events import AlertFailed, AlertSent, Event, FaultInjected, Listener, Scope, Stamped
from faults import FaultPlan
from fetch import FetchAsync
from flow import Fetch
from guard import Guard
from oversight.alerts import Alert, alerting
from safe_text import one_line

WAITING_MAX = 20
"""Alerts waiting to be sent. More means that the webhook hangs; then the newest are given up."""

_LOGGED = (AlertSent, AlertFailed, FaultInjected)


class Alerter:
    """Sends alerts to one webhook. Does nothing at all without a URL.

    Args:
        url: where to; None for nowhere.
        guard: of the webhook, and of nothing else.
        plan: its faults.
        listener: told what became of each alert, in the alerter's thread.
        now, wall: the clocks, in seconds.
    """

    def __init__(
        self,
        url: str | None,
        guard: Guard,
        plan: FaultPlan,
        listener: Listener,
        *,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._url, self._guard, self._plan, self._listener = url, guard, plan, listener
        self._now, self._wall = now, wall
        self._queue: queue.Queue[tuple[Alert, Scope] | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def send(self, alert: Alert) -> None:
        """Send it soon. Never waits, never raises."""
        if self._url is None:
            return None
        scope = {"turn": alert.trace_id, "session": alert.session_id}
        if self._queue.qsize() >= WAITING_MAX:
            return self._tell(AlertFailed(f"{WAITING_MAX} others are waiting to be sent already"), scope)
        self._queue.put((alert, scope))
        if self._thread is None:
            thread = threading.Thread(target=self._send_all, args=(self._url,), name="alerts", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system has no thread left
                return self._tell(AlertFailed(one_line(str(error))), scope)
            self._thread = thread
        return None

    def close(self, timeout_s: float) -> None:
        """Let what is under way end, for at most so long; then it is given up, and that is said once."""
        thread = self._thread
        if thread is None:
            return
        self._queue.put(None)
        thread.join(timeout_s)
        if thread.is_alive():
            self._closed.set()
            words = f"the program ended, and the webhook had not answered after {timeout_s:g} s more"
            self._tell(AlertFailed(words), {})

    # --- the thread --------------------------------------------------------------------------------------

    def _send_all(self, url: str) -> None:
        try:
            with asyncio.Runner() as runner:
                door = AsyncDoor({Fetch: FetchAsync([url], wall=self._wall)}, listeners=[self._log])
                while (item := self._queue.get()) is not None:
                    alert, scope = item
                    flow = alerting(alert, url, self._guard, self._plan, self._now, self._wall)
                    runner.run(door.run(flow, scope))
        except Exception as error:  # the last wall: an alert may be lost, the chat may not notice
            self._tell(AlertFailed(one_line(f"{type(error).__name__}: {error}")), {})
            self._thread = None  # the next alert begins another

    def _log(self, stamped: Stamped) -> None:
        """Each alert has one line in the log, whatever its tries were like."""
        if isinstance(stamped.event, _LOGGED) and not self._closed.is_set():
            self._listener(stamped)

    def _tell(self, event: Event, scope: Scope) -> None:
        try:
            self._listener(Stamped(event, scope, 0, self._now(), self._wall()))
        except Exception:  # a log that cannot be written must not fail what it tells of
            logging.getLogger("unflappable.alerts").debug("an alert could not be logged")
