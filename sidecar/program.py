"""Starts the sidecar and keeps it until a signal ends it.  (floor 6)

The port is taken before anything slow is loaded: where another program has it, that is said in
one line and the sidecar ends. Signals end it as they end the agents, with 130, 143 or 129, after
the answers under way; from the first moment on nobody new is let in, so it no longer counts as ready.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import cli


def run(program: str) -> None:
    """Run the sidecar to its exit code.

    Args:
        program: its file name, for usage errors.
    """
    with cli.last_boundary(as_json=False):
        from config import environment_with_dotenv, read_settings
        from telemetry.logs import configure_logging

        place = _place(program)
        settings = read_settings(environment_with_dotenv(), **place)
        log_format: Any = settings.log_format
        configure_logging("one_shot", settings.state_dir, settings.log_level, log_format, verbose=True)

        from sidecar.server import is_loopback, listen, make_server

        listening = listen(settings.health_host, settings.health_port)

        from sidecar.app import log, make_app

        beyond = not is_loopback(listening)
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        open_to_all = beyond and settings.health_token is None
        server = make_server(make_app(settings, beyond_loopback=beyond))
        log(logging.INFO, "sidecar_listening", url=f"http://{shown}:{port}", state_dir=str(settings.state_dir))
        if open_to_all:
            log(logging.WARNING, "only_health_is_served", why="HEALTH_TOKEN is not set and other machines can connect")
        server.run(sockets=[listening])


def _place(program: str) -> dict[str, Any]:
    if not sys.argv[1:]:
        return {}
    from sidecar.options import parse  # typer costs 0.2 s: paid for only where there is something to parse

    place = parse(sys.argv[1:], program)
    host = None if place.host is None else place.host.strip().removeprefix("[").removesuffix("]")
    return {"health_host": host, "health_port": place.port}
