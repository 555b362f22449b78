"""Every setting in one place: read once from options, the environment and `.env`, checked, then frozen.  (floor 5)

Order: options beat real environment variables, which beat the `.env` file in the working
directory. A bad value ends the program with exit 2 and one line that names the variable,
the value (never a secret's) and what is allowed. Secrets are registered for masking here,
before anything could print them. Empty means not set. Variables of parts that are not
built yet are ignored.
"""

from __future__ import annotations

import getpass
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from errors import ConfigurationError
from safe_text import mask, one_line, register_secret

T = TypeVar("T")
DEFAULT_CHAIN = "anthropic:claude-sonnet-5-5,anthropic:claude-haiku-5-5"
SECOND_PROVIDER = "google:gemini-3.6-flash"
"""Ends the default chain where its key is set."""


@dataclass(frozen=True, slots=True)
class BreakerSetting:
    """One entry of BREAKERS: a dependency or prefix, its failures in a row and its open time."""

    dependency: str
    failures: int
    open_s: float


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """All settings; the defaults are those of a production chat. Times in seconds. Printed without secrets."""

    anthropic_api_key: str | None = field(default=None, repr=False)
    anthropic_base_url: str | None = None
    gemini_api_key: str | None = field(default=None, repr=False)
    gemini_base_url: str = "https://generativelanguage.googleapis.com"
    model_chain: str = DEFAULT_CHAIN
    max_tokens: int = 16384
    llm_timeout_s: float = 30.0
    tool_timeout_s: float = 10.0
    total_timeout_s: float = 120.0
    max_retries: int = 3
    retry_base_delay_s: float = 1.0
    retry_max_delay_s: float = 30.0
    breaker_failure_threshold: int = 5
    breaker_recovery_timeout_s: float = 60.0
    breaker_success_threshold: int = 1
    breakers: tuple[BreakerSetting, ...] = ()
    rate_limit_per_minute: float = 50.0
    rate_limit_burst: int = 10
    notes_dir: Path = Path("notes")
    state_dir: Path = Path(".unflappable")
    open_meteo_geocoding_url: str = "https://geocoding-api.open-meteo.com/v1/search"
    open_meteo_forecast_url: str = "https://api.open-meteo.com/v1/forecast"
    tavily_api_key: str | None = field(default=None, repr=False)
    tavily_base_url: str = "https://api.tavily.com"
    brave_api_key: str | None = field(default=None, repr=False)
    brave_base_url: str = "https://api.search.brave.com"
    searxng_url: str | None = None
    wikipedia_url: str = "https://en.wikipedia.org"
    redis_url: str | None = field(default=None, repr=False)
    health_host: str = "127.0.0.1"
    health_port: int = 8080
    health_token: str | None = field(default=None, repr=False)
    health_allowed_hosts: tuple[str, ...] = ()
    alert_webhook_url: str | None = field(default=None, repr=False)
    user: str = ""
    log_level: str = "INFO"
    log_format: str = "text"

    def __repr__(self) -> str:
        shown = (f"{one.name}={getattr(self, one.name)!r}" for one in fields(self) if one.repr)
        return mask(f"Settings({', '.join(shown)})")  # a URL may carry a password

    def has_key_for(self, link: str) -> bool:
        """Whether a link, as a chain writes it, has the key it needs; `practice` and `local:` need none."""
        keys = {"anthropic": self.anthropic_api_key, "google": self.gemini_api_key}
        return bool(keys.get(link.strip().partition(":")[0], "none needed"))


# --- what a value may be --------------------------------------------------------------------------------


def _text(value: str) -> str:
    return value


def _key(value: str) -> str:
    if not value.isascii() or any(character.isspace() for character in value) or not value.isprintable():
        raise ValueError("a key of printable characters without spaces or line breaks")
    return value


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(value: str) -> float:
        number = float(value) if _PLAIN_NUMBER.fullmatch(value) else math.nan
        if not low <= number <= high:
            raise ValueError(f"a number from {low:g} to {high:.10g}")
        return number

    return parse


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", value) or not low <= int(value) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(value)

    return parse


def _url(value: str) -> str:
    if {"?", "#"} & set(value):
        raise ValueError("a URL that ends with its path: requests are made of it")
    return _webhook_url(value).rstrip("/")


def _webhook_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        fits = False
    if not fits or " " in value or not value.isprintable():
        raise ValueError("a URL that starts with http:// or https://")
    return value  # word for word: a service may tell /hook from /hook/


def _redis_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        network = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and parts.port != 0
        fits = network or (parts.scheme == "unix" and bool(parts.path))
    except ValueError:
        fits = False
    if not fits or " " in value or not value.isprintable():
        raise ValueError("a URL that starts with redis://, rediss:// or unix://")
    return value


def _host(value: str) -> str:
    name = value.removeprefix("[").removesuffix("]")
    if not _HOST.fullmatch(name):
        raise ValueError("a name or an address of this machine, such as 127.0.0.1, 0.0.0.0 or ::1, without a port")
    return name


def _hosts(value: str) -> tuple[str, ...]:
    hosts = tuple(part.strip().lower() for part in value.split(",") if part.strip())
    if not all(_HOST.fullmatch(host) for host in hosts):
        raise ValueError("names such as agent.example.org, separated by commas, without ports")
    return hosts


def _folder(value: str) -> Path:
    if "\0" in value:
        raise ValueError("a path")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError("a path; whose home ~ stands for is not known here") from None


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        found = next((word for word in words if word.lower() == value.lower()), None)
        if found is None:
            raise ValueError(f"one of {', '.join(words)}")
        return found

    return parse


def _breakers(value: str) -> tuple[BreakerSetting, ...]:
    settings: dict[str, BreakerSetting] = {}
    for entry in filter(None, (part.strip() for part in value.split(","))):
        match = _BREAKER.fullmatch(entry)
        if match is None or int(match[2]) < 1 or not 0 < float(match[3]) <= _DAY_S or match[1] in settings:
            raise ValueError(
                "entries like web_search.wikipedia=3/30 (failures in a row / seconds open), separated by commas, "
                "each dependency once"
            )
        settings[match[1]] = BreakerSetting(match[1], int(match[2]), float(match[3]))
    return tuple(settings.values())


_DAY_S = 86_400.0
_PATH_CHARS_MIN = 16  # a shorter path, such as `alerts`, is a word and no key
_CALL_S_MIN = 0.25  # no attempt starts with less than 0.2 s left (`deadline.py`)
_PLAIN_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")  # float() takes 1_0 and ١
_PASSWORD = re.compile(r"://[^/\s:@]*:([^/\s@]+)@")
_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9._:%-]{0,252}")  # colons and % are those of IPv6
_BREAKER = re.compile(r"([A-Za-z][^\s=,]*)\s*=\s*([0-9]{1,6})\s*/\s*([0-9]{1,6}(?:\.[0-9]{1,6})?)")
_READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "ANTHROPIC_API_KEY": ("anthropic_api_key", _key),
    "ANTHROPIC_BASE_URL": ("anthropic_base_url", _url),
    "GEMINI_API_KEY": ("gemini_api_key", _key),
    "GEMINI_BASE_URL": ("gemini_base_url", _url),
    "MODEL_CHAIN": ("model_chain", _text),
    "MAX_TOKENS": ("max_tokens", _whole(1, 128_000)),
    "LLM_TIMEOUT": ("llm_timeout_s", _number(0.05, _DAY_S)),
    "TOOL_TIMEOUT": ("tool_timeout_s", _number(_CALL_S_MIN, _DAY_S)),
    "TOTAL_TIMEOUT": ("total_timeout_s", _number(_CALL_S_MIN, _DAY_S)),
    "MAX_RETRIES": ("max_retries", _whole(0, 20)),
    "RETRY_BASE_DELAY": ("retry_base_delay_s", _number(0, 3_600)),
    "RETRY_MAX_DELAY": ("retry_max_delay_s", _number(0, 3_600)),
    "BREAKER_FAILURE_THRESHOLD": ("breaker_failure_threshold", _whole(1, 1_000_000)),
    "BREAKER_RECOVERY_TIMEOUT": ("breaker_recovery_timeout_s", _number(0.001, _DAY_S)),
    "BREAKER_SUCCESS_THRESHOLD": ("breaker_success_threshold", _whole(1, 1_000)),
    "BREAKERS": ("breakers", _breakers),
    "RATE_LIMIT_PER_MINUTE": ("rate_limit_per_minute", _number(0, 1_000_000)),
    "RATE_LIMIT_BURST": ("rate_limit_burst", _whole(1, 1_000_000)),
    "NOTES_DIR": ("notes_dir", _folder),
    "STATE_DIR": ("state_dir", _folder),
    "OPEN_METEO_GEOCODING_URL": ("open_meteo_geocoding_url", _url),
    "OPEN_METEO_FORECAST_URL": ("open_meteo_forecast_url", _url),
    "TAVILY_API_KEY": ("tavily_api_key", _key),
    "TAVILY_BASE_URL": ("tavily_base_url", _url),
    "BRAVE_API_KEY": ("brave_api_key", _key),
    "BRAVE_BASE_URL": ("brave_base_url", _url),
    "SEARXNG_URL": ("searxng_url", _url),
    "WIKIPEDIA_URL": ("wikipedia_url", _url),
    "REDIS_URL": ("redis_url", _redis_url),
    "HEALTH_HOST": ("health_host", _host),
    "HEALTH_PORT": ("health_port", _whole(0, 65_535)),
    "HEALTH_TOKEN": ("health_token", _key),
    "HEALTH_ALLOWED_HOSTS": ("health_allowed_hosts", _hosts),
    "ALERT_WEBHOOK_URL": ("alert_webhook_url", _webhook_url),
    "UNFLAPPABLE_USER": ("user", _text),
    "LOG_LEVEL": ("log_level", _one_of("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")),
    "LOG_FORMAT": ("log_format", _one_of("text", "json")),
}
_SECRETS = {
    "ANTHROPIC_API_KEY", "TAVILY_API_KEY", "BRAVE_API_KEY", "GEMINI_API_KEY", "HEALTH_TOKEN", "REDIS_URL",
    "ALERT_WEBHOOK_URL",
}  # fmt: skip


def read_settings(environment: Mapping[str, str], **options: Any) -> Settings:
    """Make Settings from variables by name; `options` (by field name) override them.

    Raises ConfigurationError for the first bad value.
    """
    for name in _SECRETS:
        register_secret(environment.get(name, "").strip())
    for name in _READERS:
        register_secret(_password_in(environment.get(name, "")))
    register_secret(_path_of(environment.get("ALERT_WEBHOOK_URL", "")))
    values: dict[str, Any] = {}
    for name, (attribute, parse) in _READERS.items():
        text = environment.get(name, "").strip()
        if text:
            values[attribute] = _parsed(name, text, parse)
    values.setdefault("user", login_name())
    if values.get("gemini_api_key"):
        values.setdefault("model_chain", f"{DEFAULT_CHAIN},{SECOND_PROVIDER}")
    return Settings(**{**values, **{name: value for name, value in options.items() if value is not None}})


def _password_in(value: str) -> str | None:
    """The password of a URL, alone or at the end of `local:MODEL@URL`: errors may show it apart from its URL."""
    found = _PASSWORD.search(value)
    return found[1] if found else None


def _path_of(value: str) -> str | None:
    """What follows the host of a URL: of a webhook that is its key, and errors may show it apart from its host."""
    path = value.strip().partition("://")[2].partition("/")[2]
    return path if len(path) >= _PATH_CHARS_MIN else None


def _parsed(name: str, text: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(text)
    except ValueError as error:
        shown = "(hidden)" if name in _SECRETS else repr(one_line(text, 80))
        raise ConfigurationError(f"{name} is {shown}; allowed is {error}", what_now=f"Correct {name}.") from None


def login_name() -> str:
    """The name of the user, for traces; "unknown" where the system has none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"


def environment_with_dotenv(folder: Path = Path()) -> dict[str, str]:
    """The process's variables over those of `folder/.env`, where there is one.

    A variable that is set to nothing beats the file too: `ANTHROPIC_API_KEY= agent_async.py` runs without a key.
    Raises ConfigurationError when `.env` is there and cannot be read.
    """
    path = folder / ".env"
    try:
        if not path.is_file():
            return dict(os.environ)
        from dotenv import dotenv_values  # 39 ms, only paid for where the file exists

        from_file = dotenv_values(path, encoding="utf-8-sig")  # some editors begin a file with a mark
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not text in UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror or str(error)
        raise ConfigurationError(f".env cannot be read: {one_line(why)}", what_now="Correct .env.") from None
    return {**{name: value for name, value in from_file.items() if value is not None}, **os.environ}
