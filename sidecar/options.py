"""The options of the sidecar, declared for typer.  (floor 6)

Loaded only when there is something on the command line, as for the agents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from cli import UsageError
from ui.options import parsed, print_version


@dataclass(frozen=True, slots=True)
class Place:
    """Where to listen, as far as the command line says so."""

    host: str | None = None
    port: int | None = None


def _options(
    host: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="Listen here instead of HEALTH_HOST. Beyond loopback see HEALTH_TOKEN."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(metavar="PORT", min=0, max=65_535, help="Listen here instead of HEALTH_PORT.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=print_version, is_eager=True)
    ] = False,
) -> Place:
    """Tell whether the agent is alive and ready, and what it did: /health/live /health/ready /metrics /traces."""
    return Place(host, port)


def parse(argv: Sequence[str], program: str) -> Place:
    """Parse the command line. Raises UsageError; ends the program itself after --help and --version."""
    place = parsed(_options, Place, argv, program)
    if place.host is not None and not place.host.strip():
        raise UsageError("--host is empty", what_now="Give an address such as 127.0.0.1.")
    return place
