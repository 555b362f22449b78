"""What the sidecar answers: is the agent alive, is it ready, what did it do.  (floor 6)

    /health/live     200 while this answers and no agent is stuck; asks nothing but the heartbeat files
    /health/ready    200, or 503 with the reasons; `checks.py`
    /metrics         Prometheus text, put together from the files of all agents
    /traces          the latest questions; /traces/ID one of them with all its spans

All of it is read from STATE_DIR, which agents and sidecar share. An agent neither knows nor waits
for the sidecar, so nothing that happens here can touch a chat.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from config import Settings
from errors import AgentError
from safe_text import one_line
from sidecar import checks
from sidecar.access import Gatekeeper, Rules
from sidecar.answers import InPieces, answer, json_bytes
from sidecar.aside import Busy, Kept, Limited
from sidecar.checks import Check
from stores.heartbeat import Heartbeat, read_heartbeats
from stores.traces import TRACES_MAX, TraceStore
from telemetry.log_lines import FIELDS
from telemetry.metrics import CONTENT_TYPE, render_metrics

T = TypeVar("T")

AGENTS_KEEP_S, AGENTS_WAIT_S = 1.0, 1.0
CHECKS_KEEP_S, CHECKS_WAIT_S = 5.0, 3.0
"""kubelet asks every 5 s and waits 5 s."""
API_WAIT_S = 2.5
"""More than a connection gets (`checks.CONNECT_S`), less than the other checks."""
READ_WAIT_S = 5.0
READERS_MAX = 4
"""Traces and metrics read, or sent to slow readers, side by side: each may be 4 MB."""
LATEST = 20
FILTERS = ("status", "user", "session")


def make_app(settings: Settings, *, beyond_loopback: bool) -> ASGIApp:
    """The application that a server of HTTP runs.

    Args:
        settings: as read by `config`.
        beyond_loopback: whether other machines can reach the server.
    """
    sidecar = Sidecar(settings)
    routes = [
        Route("/health/live", sidecar.live),
        Route("/health/ready", sidecar.ready),
        Route("/metrics", sidecar.metrics),
        Route("/traces", sidecar.latest),
        Route("/traces/{id}", sidecar.trace),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _refused, Exception: _mistaken})
    app.router.redirect_slashes = False  # it would lead to whatever Host was sent
    return Gatekeeper(app, Rules(frozenset(settings.health_allowed_hosts), beyond_loopback, settings.health_token))


class Sidecar:
    """What is known of the agents of one STATE_DIR, and the answers made of it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._traces = TraceStore(settings.state_dir)
        self._agents = Kept(lambda: read_heartbeats(settings.state_dir), keep_s=AGENTS_KEEP_S, wait_s=AGENTS_WAIT_S)
        self._metrics = Kept(lambda: render_metrics(settings.state_dir), keep_s=AGENTS_KEEP_S, wait_s=READ_WAIT_S)
        looks: dict[str, Callable[[], Check]] = {
            "configuration": lambda: checks.check_configuration(settings),
            "key": lambda: checks.check_key(settings),
            "disk_space": lambda: checks.check_disk_space((settings.notes_dir, settings.state_dir)),
            "notes_folder": lambda: checks.check_notes_folder(settings.notes_dir),
        }
        self._looks = {name: Kept(look, keep_s=CHECKS_KEEP_S, wait_s=CHECKS_WAIT_S) for name, look in looks.items()}
        # Each API on its own: one that swallows packets must not hide that another one answers.
        self._apis: dict[str, Kept[str | None]] = {
            url: Kept(partial(_problem, url), keep_s=CHECKS_KEEP_S, wait_s=API_WAIT_S)
            for url in checks.api_urls(settings)
        }
        self._readers = Limited(READERS_MAX, READ_WAIT_S)
        self._was_ready: bool | None = None

    # --- health

    async def live(self, request: Request) -> Response:
        """Whether no agent is stuck. A disk that hangs is no reason: another agent would hang on it, too."""
        try:
            agents = await self._agents.get()
        except TimeoutError:
            return answer({"status": "live", "agents": None, "reasons": ["the heartbeats cannot be read in time"]})
        reasons = [checks.stuck_line(agent) for agent in agents if agent.stuck]
        body = {"status": "stuck" if reasons else "live", "agents": [_told(one) for one in agents], "reasons": reasons}
        return answer(body, 503 if reasons else 200)

    async def ready(self, request: Request) -> Response:
        """Whether a question could be answered now, by the model that was asked for."""
        done, api, agents = await asyncio.gather(
            asyncio.gather(*map(_outcome, self._looks.values())), self._of_apis(), self._of_agents()
        )
        found = {**dict(zip(self._looks, done, strict=True)), "model_api": api, **agents}
        reasons = [f"{name}: {check.detail}" for name, check in found.items() if not check.ok]
        self._note(reasons)
        shown = {name: {"ok": check.ok, "detail": check.detail} for name, check in found.items()}
        body = {"status": "not_ready" if reasons else "ready", "checks": shown, "reasons": reasons}
        return answer(body, 503 if reasons else 200)

    async def _of_apis(self) -> Check:
        async def problem(url: str, kept: Kept[str | None]) -> str | None:
            try:
                return await kept.get()
            except TimeoutError:
                return f"{checks.server_name(url)} does not answer in time"

        return checks.check_model_api(await asyncio.gather(*(problem(*each) for each in self._apis.items())))

    async def _of_agents(self) -> dict[str, Check]:
        try:
            agents = await self._agents.get()
        except TimeoutError:
            return {"agents": Check(False, "the heartbeats cannot be read in time")}
        return {"breakers": checks.check_breakers(agents, self._settings), "agents": checks.check_agents(agents)}

    def _note(self, reasons: Sequence[str]) -> None:
        """Log when it changes, not each time it is asked."""
        if self._was_ready is not (not reasons):
            self._was_ready = not reasons
            log(
                logging.WARNING if reasons else logging.INFO, "not_ready" if reasons else "ready", reasons=list(reasons)
            )

    # --- what the agents did

    async def metrics(self, request: Request) -> Response:
        """What all agents counted."""
        try:
            return InPieces(await self._metrics.get(), CONTENT_TYPE, lambda: None)
        except TimeoutError:
            return _later("the metrics cannot be read in time")

    async def latest(self, request: Request) -> Response:
        """The newest traces, without their spans."""
        try:
            limit, wanted = asked_for(request.query_params)
        except ValueError as error:
            return answer({"error": str(error)}, 400)
        return await self._read(lambda: {"traces": self._traces.latest(limit, whole=False, **wanted)})

    async def trace(self, request: Request) -> Response:
        """One trace, by its id or by how it begins."""
        return await self._read(partial(self._traces.get, request.path_params["id"]))

    async def _read(self, ask: Callable[[], Any]) -> Response:
        try:
            data = await self._readers.get(lambda: None if (found := ask()) is None else json_bytes(found))
        except Busy:
            return _later("too many are reading")
        except TimeoutError:
            return _later("the traces cannot be read in time")
        except (ValueError, RecursionError):
            return answer({"error": "what is kept there is damaged"}, 503)
        except AgentError as error:
            return answer({"error": one_line(error.message, 400)}, 400 if error.reason == "configuration" else 503)
        if data is None:
            self._readers.give_back()
            return answer({"error": "there is no such trace"}, 404)
        return InPieces(data, "application/json", self._readers.give_back)


def asked_for(query: Mapping[str, str]) -> tuple[int, dict[str, str]]:
    """The limit and the filters of `/traces`. Raises ValueError that says what is allowed."""
    unknown = [name for name in query if name not in (*FILTERS, "limit")]
    if unknown:
        raise ValueError(f"{one_line(unknown[0], 40)!r} is unknown; there are {', '.join(FILTERS)} and limit")
    text = query.get("limit", str(LATEST))
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= TRACES_MAX):
        raise ValueError(f"limit is {one_line(text, 40)!r}; allowed is a whole number from 1 to {TRACES_MAX}")
    return int(text), {name: query[name] for name in FILTERS if query.get(name)}


def log(level: int, event: str, **fields: Any) -> None:
    """One line in the log of the sidecar."""
    logging.getLogger("unflappable.sidecar").log(level, event, extra={FIELDS: fields})


def _problem(url: str) -> str | None:
    try:
        return checks.connection_problem(url)
    except Exception as error:  # whatever else a look at a foreign server meets, it is a reason like any other
        return one_line(f"{checks.server_name(url)}: {type(error).__name__}: {error}")


async def _outcome(look: Kept[Check]) -> Check:
    try:
        return await look.get()
    except TimeoutError:
        return Check(False, f"cannot be told within {CHECKS_WAIT_S:g} s")
    except Exception as error:  # whatever a check meets that it did not expect is a reason, not the end of the others
        return Check(False, one_line(f"{type(error).__name__}: {error}"))


def _told(agent: Heartbeat) -> dict[str, Any]:
    return {
        "pid": agent.pid,
        "state": agent.state,
        "stuck": agent.stuck,
        "beat_age_s": round(agent.beat_age_s, 1),
        "loop_lag_s": agent.loop_lag_s,
    }


def _later(error: str) -> Response:
    return answer({"error": error}, 503, {"retry-after": "1"})


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return answer({"error": error.detail.lower()}, error.status_code, error.headers)


async def _mistaken(request: Request, error: Exception) -> Response:
    log(logging.ERROR, "internal_error", error=f"{type(error).__name__}: {error}")
    return answer({"error": "a mistake in the sidecar; its log says which"}, 500)
