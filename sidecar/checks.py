"""What must hold for the agent to be ready, and in one line each why it is not.  (floor 6)

Nothing here is billable: that the model's API can be reached is found out by a connection, with
its TLS handshake, and no request. The chain of models is ready when one of its links is: it has a
well-formed key, its API answers, and no agent's circuit to it is open; what else fails in it is
told as a detail. The practice model never counts: it answers, but it is not what was asked for.

What this does not do: prove that a key is valid (only the API knows, and the agent says so at
once), or look after optional tools: without them the agent still answers, and says what is missing.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from circuit_breaker import State
from config import Settings
from errors import AgentError, ConfigurationError
from models.chain import Link, parse_chain
from models.claude import BASE_URL as ANTHROPIC_URL
from platform_edges import trust
from safe_text import one_line
from stores.heartbeat import Heartbeat

FREE_BYTES_MIN = 100 << 20
"""Of the disks of notes and state: the traces may take 50 MB, a log 10 MB and its predecessor as much."""

CONNECT_S = 2.0
"""For a connection and its handshake; kubelet waits 5 s for the whole answer."""

CRITICAL_TOOLS = ("calculator", "save_note")
"""Without them a question fails; without the others it is answered with less."""

_ANTHROPIC_KEY = re.compile(r"sk-ant-[A-Za-z0-9_-]{8,}")
_OTHER_KEY = re.compile(r"sk-\S+|\S{16,}")
_KEYS = {"anthropic": "ANTHROPIC_API_KEY", "google": "GEMINI_API_KEY"}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `detail` says why it is not so, or what else is worth knowing."""

    ok: bool
    detail: str = ""


GOOD = Check(True)


def check_configuration(settings: Settings) -> Check:
    """Whether the chain of models makes sense, with a link that is not the practice model."""
    try:
        links = parse_chain(settings.model_chain)
    except ConfigurationError as error:
        return Check(False, one_line(f"{error.message}. {error.what_now}", 400))
    if not _real(links):
        return Check(False, "practice mode: MODEL_CHAIN names only the practice model")
    return GOOD


def check_key(settings: Settings) -> Check:
    """Whether some link of the chain has a key that looks like one, or needs none."""
    links = _real(_links(settings))
    wrong = list(dict.fromkeys(why for link in links if (why := key_problem(link, settings))))
    usable = any(key_problem(link, settings) is None for link in links)
    if usable or not links:
        return Check(usable, "; ".join(wrong) or ("" if usable else "no model of the chain takes a key"))
    missing = not any(settings.has_key_for(link.name) for link in links)
    return Check(False, "; ".join(wrong) + (": the agent would answer in practice mode" if missing else ""))


def key_problem(link: Link, settings: Settings) -> str | None:
    """What is wrong with the key of a link; None when it has what it needs. Never tells the key."""
    name = _KEYS.get(link.provider)
    if name is None:
        return None
    if not settings.has_key_for(link.name):
        return f"{name} is not set"
    key = (settings.anthropic_api_key if link.provider == "anthropic" else settings.gemini_api_key) or ""
    # Another server than Anthropic's may take any key; one so short is a word somebody meant to replace.
    shape = _ANTHROPIC_KEY if link.provider == "anthropic" and not settings.anthropic_base_url else _OTHER_KEY
    return None if shape.fullmatch(key) else f"{name} does not look like a key"


def api_urls(settings: Settings) -> list[str]:
    """Where the links that have their key are asked, each place once."""
    usable = (link for link in _real(_links(settings)) if key_problem(link, settings) is None)
    return list(dict.fromkeys(base_url(link, settings) for link in usable))


def check_model_api(problems: Sequence[str | None]) -> Check:
    """Whether one of the APIs can be reached.

    Args:
        problems: of each of `api_urls`, as `connection_problem` tells it.
    """
    if not problems:
        return Check(False, "not asked: no model of the chain has its key")
    return Check(None in problems, "; ".join(filter(None, problems)))


def base_url(link: Link, settings: Settings) -> str:
    """Where a link is asked."""
    if link.base_url is not None:
        return link.base_url
    return settings.gemini_base_url if link.provider == "google" else settings.anthropic_base_url or ANTHROPIC_URL


def connection_problem(url: str) -> str | None:
    """Why the server of a URL, or the proxy before it, cannot be reached; None when it can. Sends no request."""
    parts = urlsplit(url)
    proxy = _proxy(parts.scheme, parts.hostname or "")
    name = server_name(url) + (" through the proxy" if proxy else "")
    try:
        _connect(urlsplit(proxy) if proxy else parts)
    except TimeoutError:
        return f"{name} does not answer within {CONNECT_S:g} s"
    except ssl.SSLCertVerificationError as error:
        return f"{name} has a certificate that is not trusted: {one_line(error.verify_message)}"
    except (OSError, ValueError, AgentError) as error:
        why = getattr(error, "strerror", None) or str(error)
        return f"{name} cannot be reached: {one_line(why)}"
    return None


def server_name(url: str) -> str:
    """The server of a URL, without a password."""
    return one_line(urlsplit(url).netloc.rpartition("@")[2], 100)


def _connect(to: SplitResult) -> None:
    place = (to.hostname or "", to.port or (443 if to.scheme == "https" else 80))
    with socket.create_connection(place, timeout=CONNECT_S) as connection:
        if to.scheme == "https":
            trust().wrap_socket(connection, server_hostname=to.hostname).close()


def _proxy(scheme: str, host: str) -> str | None:
    """The proxy of the environment, as the models' clients find it."""
    import urllib.request  # 30 ms that nothing else here needs

    proxies = urllib.request.getproxies()
    address = proxies.get(scheme) or proxies.get("all")
    if not address or urllib.request.proxy_bypass(host):
        return None
    return address if "://" in address else f"http://{address}"


def check_disk_space(folders: Iterable[Path]) -> Check:
    """Whether there is room on the disks of these folders, whether they exist yet or not."""
    problems = []
    for folder in folders:
        place = _existing(folder)
        try:
            free = shutil.disk_usage(place).free
            full = hasattr(os, "statvfs") and (found := os.statvfs(place)).f_files > 0 and found.f_favail == 0
        except OSError as error:
            problems.append(one_line(f"the disk of {folder} cannot be asked: {error.strerror or error}"))
            continue
        if full or free < FREE_BYTES_MIN:
            room = "no room for another file" if full else f"{free >> 20} MiB free of the {FREE_BYTES_MIN >> 20} needed"
            problems.append(one_line(f"the disk of {folder} has {room}"))
    return Check(not problems, "; ".join(problems))


def check_notes_folder(folder: Path) -> Check:
    """Whether a note can be saved: by writing a file and removing it, since permissions alone don't tell."""
    place = _existing(folder)
    try:
        if not place.is_dir():
            return Check(False, one_line(f"the notes folder {folder} cannot be made: {place} is no folder"))
        with tempfile.TemporaryFile(dir=place) as file:  # without a name where the system can do that
            file.write(b"?")
            file.flush()
    except OSError as error:
        return Check(False, one_line(f"the notes folder {folder} cannot be written to: {error.strerror or error}"))
    return GOOD


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists: what is missing is made when it is needed."""
    return next((place for place in (folder, *folder.absolute().parents) if os.path.lexists(place)), Path("/"))


def check_breakers(agents: Sequence[Heartbeat], settings: Settings) -> Check:
    """Whether no agent has an open circuit to a critical tool, or to every model it could ask."""
    models = [link.dependency for link in _real(_links(settings)) if key_problem(link, settings) is None]
    problems = []
    for agent in agents:
        opened = {one.name for one in agent.breakers if one.state is State.OPEN}
        critical = [name for name in opened if name.split(".")[0] in CRITICAL_TOOLS]
        if models and opened.issuperset(models):
            critical += models
        if critical:
            problems.append(f"the agent {agent.pid} does not ask {', '.join(sorted(critical))}: circuit open")
    return Check(not problems, one_line("; ".join(problems), 400))


def check_agents(agents: Sequence[Heartbeat]) -> Check:
    """Whether no agent is stuck, practises or ends. None at all is good: one may be started at any time."""
    problems = [stuck_line(agent) for agent in agents if agent.stuck]
    problems += [f"the agent {agent.pid} was told to end" for agent in agents if agent.state == "stopping"]
    problems += [f"the agent {agent.pid} is in practice mode" for agent in agents if agent.practice]
    return Check(not problems, "; ".join(problems))


def stuck_line(agent: Heartbeat) -> str:
    """Which agent is stuck, and since when."""
    return f"the agent {agent.pid} is stuck ({agent.state}, last beat {agent.beat_age_s:.0f} s ago)"


def _links(settings: Settings) -> tuple[Link, ...]:
    try:
        return parse_chain(settings.model_chain)
    except ConfigurationError:
        return ()  # `check_configuration` says so


def _real(links: Iterable[Link]) -> list[Link]:
    return [link for link in links if link.provider != "practice"]
