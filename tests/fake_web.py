"""The services behind the tools, faked over real loopback sockets with the shapes of the real ones."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Asked:
    """One request as it arrived; header names in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Said:
    """One answer. `cut` sends only so many bytes of the body and closes; `reset` does so with a RST."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    cut: int | None = None
    reset: bool = False
    hang: bool = False


def said(value: Any, status: int = 200, **headers: str) -> Said:
    """A JSON answer."""
    return Said(status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})


def said_gzip(body: bytes) -> Said:
    """A compressed answer."""
    return Said(200, gzip.compress(body), {"Content-Type": "application/json", "Content-Encoding": "gzip"})


Answering = Callable[[Asked], Said]


class FakeWeb:
    """A server whose paths answer what the test says; `asked` keeps every request."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answers: dict[str, Answering] = {}
        self._ended = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> FakeWeb:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def on(self, path: str, answer: Said | Answering) -> None:
        """Answer this path so."""
        self.answers[path] = (lambda asked: answer) if isinstance(answer, Said) else answer

    def paths(self) -> list[str]:
        return [each.path for each in self.asked]

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request (for the handler below)."""
        parts = urlsplit(handler.path)
        length = int(handler.headers.get("content-length") or 0)
        raw = handler.rfile.read(length)
        asked = Asked(
            handler.command,
            parts.path,
            {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()},
            {name.lower(): value for name, value in handler.headers.items()},
            json.loads(raw) if raw else None,
        )
        self.asked.append(asked)
        answer = self.answers.get(parts.path, _unknown)(asked)
        if answer.hang:
            self._ended.wait()
            return
        with contextlib.suppress(ConnectionError):  # the client may be gone: a timeout, a size limit
            _send(handler, answer)


def _unknown(asked: Asked) -> Said:
    return said({"error": "no such path"}, 404)


def _send(handler: BaseHTTPRequestHandler, answer: Said) -> None:
    handler.send_response(answer.status)
    for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(answer.body if answer.cut is None else answer.body[: answer.cut])
    handler.wfile.flush()
    handler.close_connection = True
    if answer.reset:
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()


def _handler(web: FakeWeb) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            web.serve(self)

        def do_POST(self) -> None:
            web.serve(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def finish(self) -> None:
            with contextlib.suppress(OSError, ValueError):  # closed by a faked reset
                super().finish()

    return Handler


# --- the shapes of the real services -----------------------------------------------------------------------


def place(name: str = "Berlin", **fields: Any) -> dict[str, Any]:
    """One result of Open-Meteo's geocoding."""
    return {
        "id": 2950159, "name": name, "latitude": 52.52437, "longitude": 13.41053, "elevation": 74.0,
        "feature_code": "PPLC", "country_code": "DE", "admin1_id": 2950157, "timezone": "Europe/Berlin",
        "population": 3426354, "country_id": 2921044, "country": "Germany", "admin1": "State of Berlin", **fields,
    }  # fmt: skip


def geocoding(*places: dict[str, Any]) -> dict[str, Any]:
    """Open-Meteo's geocoding answer; without a match there is no `results`."""
    found: dict[str, Any] = {"generationtime_ms": 0.5}
    return {"results": list(places), **found} if places else found


def forecast(current: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """Open-Meteo's forecast answer."""
    return {
        "latitude": 52.52, "longitude": 13.419998, "generationtime_ms": 0.1, "utc_offset_seconds": 7200,
        "timezone": "Europe/Berlin", "timezone_abbreviation": "GMT+2", "elevation": 38.0,
        "current_units": {
            "time": "iso8601", "interval": "seconds", "temperature_2m": "°C", "apparent_temperature": "°C",
            "relative_humidity_2m": "%", "precipitation": "mm", "weather_code": "wmo code",
            "wind_speed_10m": "km/h", "wind_direction_10m": "°", "is_day": "",
        },
        "current": {
            "time": "2026-07-16T10:30", "interval": 900, "temperature_2m": 25.4, "apparent_temperature": 26.1,
            "relative_humidity_2m": 48, "precipitation": 0.0, "weather_code": 2, "wind_speed_10m": 11.2,
            "wind_direction_10m": 262, "is_day": 1, **(current or {}),
        },
        "daily_units": {
            "time": "iso8601", "weather_code": "wmo code", "temperature_2m_max": "°C", "temperature_2m_min": "°C",
            "precipitation_probability_max": "%", "sunrise": "iso8601", "sunset": "iso8601",
        },
        "daily": {
            "time": ["2026-07-16", "2026-07-17", "2026-07-18"], "weather_code": [2, 61, 95],
            "temperature_2m_max": [27.1, 24.0, 22.5], "temperature_2m_min": [16.2, 15.0, 14.4],
            "precipitation_probability_max": [10, 70, 85],
            "sunrise": ["2026-07-16T05:01"] * 3, "sunset": ["2026-07-16T21:22"] * 3,
        },
        **fields,
    }  # fmt: skip


def open_meteo(web: FakeWeb, *places: dict[str, Any], **fields: Any) -> None:
    """Let the server be Open-Meteo, with Berlin in it."""
    web.on("/v1/search", said(geocoding(*(places or (place(),)))))
    web.on("/v1/forecast", lambda asked: said(forecast(**{**_cell_of(asked), **fields})))


def _cell_of(asked: Asked) -> dict[str, float]:
    """The middle of the cell of the model's grid that a place lies in."""
    return {name: round(float(asked.query[name]) * 8) / 8 for name in ("latitude", "longitude")}


def tavily(*results: tuple[str, str, str]) -> dict[str, Any]:
    """Tavily's answer of (title, url, content)."""
    return {
        "query": "q", "answer": None, "images": [],
        "results": [
            {"title": title, "url": url, "content": content, "score": 0.9, "raw_content": None}
            for title, url, content in results
        ],
        "response_time": 1.2, "request_id": "r", "usage": {"credits": 1},
    }  # fmt: skip


def brave(*results: tuple[str, str, str]) -> dict[str, Any]:
    """Brave's answer of (title, url, description); `web` is missing when nothing was found."""
    found: dict[str, Any] = {"type": "search", "query": {"original": "q"}}
    entries = [{"title": t, "url": u, "description": d, "age": "2 days ago"} for t, u, d in results]
    return {**found, "web": {"results": entries}} if entries else found


def searxng(*results: tuple[str, str, str], unresponsive: tuple[tuple[str, str], ...] = ()) -> dict[str, Any]:
    """SearXNG's answer of (title, url, content)."""
    return {
        "query": "q", "number_of_results": len(results),
        "results": [{"title": t, "url": u, "content": c, "engine": "bing", "score": 1.0} for t, u, c in results],
        "answers": [], "corrections": [], "infoboxes": [], "suggestions": [],
        "unresponsive_engines": [list(each) for each in unresponsive],
    }  # fmt: skip


def wikipedia(*pages: tuple[str, str, str]) -> dict[str, Any]:
    """Wikipedia's answer of (key, title, excerpt with its markup)."""
    return {
        "pages": [
            {"id": at, "key": key, "title": title, "excerpt": excerpt, "matched_title": None, "description": "thing"}
            for at, (key, title, excerpt) in enumerate(pages)
        ]
    }
