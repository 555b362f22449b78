"""Every setting has its default, takes good values, and names what is wrong without showing a secret."""

from __future__ import annotations

import dataclasses
import getpass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import safe_text
from config import (
    DEFAULT_CHAIN,
    SECOND_PROVIDER,
    BreakerSetting,
    Settings,
    environment_with_dotenv,
    login_name,
    read_settings,
)
from errors import ConfigurationError
from safe_text import MASK, mask

TIMES = ["0", "-1", "nan", "inf", "1e9", "1_0", "ten", "0x10", "١٠", "1,5", "5 s", "--5", "1e999"]
COUNTS = ["-1", "1.5", "nan", "1e3", "99999999999", "1_0", "٣", "+1", "a"]
URLS = [
    "localhost:8080", "ftp://x", "http://", "https://:80", "//x", "http://x:99999", "http://x:0", "http://x:port",
    "http://[::1", "http://a b", "http://a\x1bb", "http://a\tb", "file:///etc/passwd", "javascript:alert(1)",
    "http:\\\\x",
]  # fmt: skip
KEYS = ["two words", "line\nbreak", "schlüssel-12345", "tab\tkey-12345", "esc\x1b-key-12345", "nul\0-key-12345"]

# variable: (field, default, {good text: value}, bad texts, what the error says is allowed)
VARIABLES: dict[str, tuple[str, Any, dict[str, Any], list[str], str]] = {
    "ANTHROPIC_API_KEY": ("anthropic_api_key", None, {"sk-ant-12345678": "sk-ant-12345678"}, KEYS, "without spaces"),
    "ANTHROPIC_BASE_URL": (
        "anthropic_base_url", None,
        {"http://127.0.0.1:8080": "http://127.0.0.1:8080", "https://x/y/": "https://x/y", "http://[::1]:9": "http://[::1]:9",
         "HTTP://X": "HTTP://X"}, URLS, "http:// or https://",
    ),
    "GEMINI_API_KEY": ("gemini_api_key", None, {"AIza-1": "AIza-1"}, KEYS, "without spaces"),
    "GEMINI_BASE_URL": (
        "gemini_base_url", "https://generativelanguage.googleapis.com", {"http://h/x/": "http://h/x"}, URLS, "http://",
    ),
    "MODEL_CHAIN": ("model_chain", DEFAULT_CHAIN, {"practice": "practice"}, [], ""),
    "MAX_TOKENS": ("max_tokens", 16384, {"1": 1, "128000": 128_000}, ["0", "128001", *COUNTS], "from 1 to 128000"),
    "LLM_TIMEOUT": ("llm_timeout_s", 30.0, {"0.5": 0.5, "120": 120.0, "1e2": 100.0}, TIMES, "a number from 0.05"),
    "TOOL_TIMEOUT": ("tool_timeout_s", 10.0, {"1": 1.0, ".5": 0.5}, ["0.2", *TIMES], "a number from 0.25"),
    "TOTAL_TIMEOUT": ("total_timeout_s", 120.0, {"2": 2.0, "86400": 86_400.0}, ["0.2", *TIMES], "to 86400"),
    "MAX_RETRIES": ("max_retries", 3, {"0": 0, "20": 20}, ["21", *COUNTS], "from 0 to 20"),
    "RETRY_BASE_DELAY": ("retry_base_delay_s", 1.0, {"0": 0.0, "0.25": 0.25}, TIMES[1:], "from 0 to 3600"),
    "RETRY_MAX_DELAY": ("retry_max_delay_s", 30.0, {"0": 0.0, "5": 5.0}, TIMES[1:], "from 0 to 3600"),
    "BREAKER_FAILURE_THRESHOLD": ("breaker_failure_threshold", 5, {"1": 1}, ["0", *COUNTS], "from 1"),
    "BREAKER_RECOVERY_TIMEOUT": ("breaker_recovery_timeout_s", 60.0, {"0.5": 0.5}, TIMES, "a number from"),
    "BREAKER_SUCCESS_THRESHOLD": ("breaker_success_threshold", 1, {"2": 2}, ["0", "1001", *COUNTS], "from 1 to 1000"),
    "BREAKERS": (
        "breakers", (),
        {
            "web_search.wikipedia=3/30,model.anthropic=5/20": (
                BreakerSetting("web_search.wikipedia", 3, 30.0), BreakerSetting("model.anthropic", 5, 20.0),
            ),
            " model.local.qwen2.5:7b = 1 / 0.5 ,": (BreakerSetting("model.local.qwen2.5:7b", 1, 0.5),),
            "model.local.meta/llama=2/9": (BreakerSetting("model.local.meta/llama", 2, 9.0),),
            ",": (),
        },
        ["x", "x=", "x=3", "x=3/", "x=/30", "=3/30", "x=0/30", "x=3/0", "x=-1/30", "x=3/-1", "x=3/nan", "x=3/1e9",
         "x=3/30/9", "x=3.5/30", "x=3/99999", "x=3/30;y=3/30", "x=3/30,x=4/40", "a b=3/30", "x=9999999/1", "x=٣/٣"],
        "each dependency once",
    ),
    "RATE_LIMIT_PER_MINUTE": ("rate_limit_per_minute", 50.0, {"0": 0.0, "0.5": 0.5}, TIMES[1:], "from 0"),
    "RATE_LIMIT_BURST": ("rate_limit_burst", 10, {"1": 1}, ["0", *COUNTS], "from 1"),
    "NOTES_DIR": (
        "notes_dir", Path("notes"), {"a b/ü": Path("a b/ü"), "~": Path.home()}, ["~nobody-of-this-name/x"], "a path",
    ),
    "STATE_DIR": ("state_dir", Path(".unflappable"), {"/x": Path("/x")}, ["a\0b"], "a path"),
    "OPEN_METEO_GEOCODING_URL": (
        "open_meteo_geocoding_url", "https://geocoding-api.open-meteo.com/v1/search",
        {"http://127.0.0.1:1/s": "http://127.0.0.1:1/s"}, URLS, "http:// or https://",
    ),
    "OPEN_METEO_FORECAST_URL": (
        "open_meteo_forecast_url", "https://api.open-meteo.com/v1/forecast", {"http://h/f/": "http://h/f"}, URLS,
        "http:// or https://",
    ),
    "TAVILY_API_KEY": ("tavily_api_key", None, {"tvly-1": "tvly-1"}, KEYS, "without spaces"),
    "TAVILY_BASE_URL": ("tavily_base_url", "https://api.tavily.com", {"http://h": "http://h"}, URLS, "http://"),
    "BRAVE_API_KEY": ("brave_api_key", None, {"BSA1": "BSA1"}, KEYS, "without spaces"),
    "BRAVE_BASE_URL": ("brave_base_url", "https://api.search.brave.com", {"http://h": "http://h"}, URLS, "http://"),
    "SEARXNG_URL": ("searxng_url", None, {"http://h:8888/": "http://h:8888"}, URLS, "http://"),
    "WIKIPEDIA_URL": ("wikipedia_url", "https://en.wikipedia.org", {"https://de.w.org": "https://de.w.org"}, URLS, "http://"),
    "REDIS_URL": (
        "redis_url", None,
        {url: url for url in ("redis://h", "rediss://:pw@h:6380/2", "unix:///run/redis.sock", "redis://[::1]:9/0")},
        ["localhost:6379", "redis://:pw@", "unix:?db=1", "redis://h:0", "redis://h:x", "redis://[::1", "redis://a b",
         "http://h"], "redis://, rediss:// or unix://",
    ),
    "HEALTH_HOST": (
        "health_host", "127.0.0.1", {"0.0.0.0": "0.0.0.0", "::": "::", "[::1]": "::1", "pod-1.x": "pod-1.x"},
        ["a b", "http://h", "h/x", "-", "ü", "a,b", "[]"], "without a port",
    ),
    "HEALTH_PORT": ("health_port", 8080, {"0": 0, "65535": 65_535}, ["65536", *COUNTS], "from 0 to 65535"),
    "HEALTH_TOKEN": ("health_token", None, {"t0ken": "t0ken"}, KEYS, "without spaces"),
    "HEALTH_ALLOWED_HOSTS": (
        "health_allowed_hosts", (), {"a.b, C.d,": ("a.b", "c.d"), ",": ()}, ["http://h", "a b", "*", "h/x"],
        "names such",
    ),
    "ALERT_WEBHOOK_URL": (
        "alert_webhook_url", None, {"https://h/services/T0/": "https://h/services/T0/", "http://[::1]:9": "http://[::1]:9"},
        [url for url in URLS if url != "http://"], "http:// or https://",
    ),
    "UNFLAPPABLE_USER": ("user", login_name(), {"Ada L.": "Ada L."}, [], ""),
    "LOG_LEVEL": ("log_level", "INFO", {"debug": "DEBUG", "WARNING": "WARNING"}, ["loud", "10"], "one of DEBUG, INFO"),
    "LOG_FORMAT": ("log_format", "text", {"JSON": "json"}, ["xml"], "one of text, json"),
}  # fmt: skip
SECRETS = ["ANTHROPIC_API_KEY", "TAVILY_API_KEY", "BRAVE_API_KEY", "GEMINI_API_KEY", "HEALTH_TOKEN", "REDIS_URL"]

GOOD = [(name, text, value) for name, (_, _, good, _, _) in VARIABLES.items() for text, value in good.items()]
BAD = [(name, text) for name, (_, _, _, bad, _) in VARIABLES.items() for text in bad]


@pytest.fixture(autouse=True)
def _secrets_of_this_test_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_text, "_known_secrets", [])


def test_every_setting_is_in_the_table() -> None:
    assert {field for field, *_ in VARIABLES.values()} == {field.name for field in dataclasses.fields(Settings)}


@pytest.mark.parametrize("name", VARIABLES)
def test_without_a_variable_the_default_stands_and_empty_means_not_set(name: str) -> None:
    field, default, *_ = VARIABLES[name]
    for environment in ({}, {name: ""}, {name: "  \t "}):
        assert getattr(read_settings(environment), field) == default


@pytest.mark.parametrize(("name", "text", "value"), GOOD)
def test_a_good_value_is_taken_with_blanks_around_it(name: str, text: str, value: Any) -> None:
    found = getattr(read_settings({name: f" {text}\n"}), VARIABLES[name][0])
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(("name", "text"), BAD)
def test_a_bad_value_is_an_error_that_names_the_variable_and_what_is_allowed(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_settings({name: text})
    said = f"{caught.value.message} {caught.value.what_now}"
    assert said.startswith(f"{name} is ")
    assert VARIABLES[name][4] in said
    assert said.isprintable(), "one line, no control characters"
    assert (text in said) is False or name not in (*SECRETS, "ALERT_WEBHOOK_URL"), "a secret is never shown"
    if name in (*SECRETS, "ALERT_WEBHOOK_URL"):
        assert "(hidden)" in said


def test_a_secret_is_masked_everywhere_as_soon_as_it_was_read() -> None:
    for number, name in enumerate(SECRETS):
        secret = f"redis://very-secret-{number}"  # every one of them takes such a value
        read_settings({name: secret})
        assert mask(f"got {secret}!") == f"got {MASK}!"


def test_the_path_of_a_webhook_is_a_secret_too_unless_it_is_a_mere_word() -> None:
    read_settings({"ALERT_WEBHOOK_URL": "https://hooks.example.org/services/T012/k3y-of-the-hook"})
    assert mask("POST /services/T012/k3y-of-the-hook: 404") == f"POST /{MASK}: 404"
    read_settings({"ALERT_WEBHOOK_URL": "http://localhost:9/alerts"})
    assert mask("no alerts from localhost") == "no alerts from localhost"
    assert mask("posting to http://localhost:9/alerts") == f"posting to {MASK}"


def test_a_secret_is_masked_also_when_its_own_variable_or_another_one_is_wrong() -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_settings({"ANTHROPIC_API_KEY": "half of-a-key-7", "LLM_TIMEOUT": "x"})
    assert "half" not in str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        read_settings({"TAVILY_API_KEY": "pasted-key-98765", "LLM_TIMEOUT": "pasted-key-98765"})
    assert "98765" not in str(caught.value)


def test_passwords_in_urls_are_not_shown_in_errors_nor_in_what_is_printed() -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_settings({"SEARXNG_URL": "ftp://me:hunter22@host"})
    assert "hunter22" not in str(caught.value)
    settings = read_settings({"SEARXNG_URL": "https://me:hunter33@host", "WIKIPEDIA_URL": "https://token-44@host"})
    assert settings.searxng_url == "https://me:hunter33@host"
    assert "hunter33" not in repr(settings)
    assert "token-44" not in repr(settings)
    assert mask("401 for me with hunter33") == f"401 for me with {MASK}"


def test_settings_printed_show_no_key_and_all_the_rest() -> None:
    settings = read_settings({"ANTHROPIC_API_KEY": "zq", "TAVILY_API_KEY": "zq-tavily", "BRAVE_API_KEY": "zq-brave"})
    for shown in (repr(settings), str(settings), f"{settings}"):
        assert "zq" not in shown
        assert "max_tokens=16384" in shown


def test_options_beat_the_environment_and_none_does_not() -> None:
    environment = {"MODEL_CHAIN": "practice", "MAX_TOKENS": "7"}
    assert read_settings(environment, model_chain="anthropic:x").model_chain == "anthropic:x"
    assert read_settings(environment, model_chain=None, max_tokens=None).max_tokens == 7


def test_the_second_provider_ends_the_default_chain_once_its_key_is_set() -> None:
    assert read_settings({"GEMINI_API_KEY": "AIza-1"}).model_chain == f"{DEFAULT_CHAIN},{SECOND_PROVIDER}"
    assert read_settings({"GEMINI_API_KEY": "AIza-1", "MODEL_CHAIN": "practice"}).model_chain == "practice"


def test_a_link_is_known_by_the_key_it_needs() -> None:
    nothing, both = read_settings({}), read_settings({"ANTHROPIC_API_KEY": "a", "GEMINI_API_KEY": "b"})
    for link, needs in {"anthropic:x": True, " google:x ": True, "practice": False, "local:m@http://h": False}.items():
        assert both.has_key_for(link)
        assert nothing.has_key_for(link) is not needs


@pytest.mark.parametrize("url", ["http://h/?key=x", "http://h/#x"])
def test_a_base_url_has_no_query_but_a_webhook_may(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"GEMINI_BASE_URL is .* that ends with its path"):
        read_settings({"GEMINI_BASE_URL": url})
    assert read_settings({"ALERT_WEBHOOK_URL": url}).alert_webhook_url == url


def test_variables_of_parts_that_are_not_built_yet_are_ignored() -> None:
    environment = {"BUDGET_USD": "lots", "DATABASE_URL": "::", "OTEL_EXPORTER_OTLP_ENDPOINT": "x"}
    assert read_settings(environment) == read_settings({})


@given(st.sampled_from(sorted(VARIABLES)), st.text(max_size=30))
def test_whatever_a_variable_holds_there_are_settings_or_one_line_that_names_it(name: str, text: str) -> None:
    said = f"{name} is fine"
    try:
        assert isinstance(read_settings({name: text}), Settings)
    except ConfigurationError as error:
        said = error.message
    assert said.startswith(f"{name} is ")
    assert "\n" not in said
    assert len(said) < 400


# --- .env ------------------------------------------------------------------------------------------------


def test_the_file_is_read_and_real_variables_win_also_empty_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text(
        "# a comment\nMAX_TOKENS=5\nexport LLM_TIMEOUT='7'\nTAVILY_API_KEY=\"from-file\"\nBRAVE_API_KEY=file\nBARE\n"
    )
    monkeypatch.setenv("MAX_TOKENS", "6")
    monkeypatch.setenv("BRAVE_API_KEY", "")
    settings = read_settings(environment_with_dotenv(tmp_path))
    assert (settings.max_tokens, settings.llm_timeout_s, settings.tavily_api_key) == (6, 7.0, "from-file")
    assert settings.brave_api_key is None


def test_a_mark_at_the_start_of_the_file_does_not_swallow_the_first_variable(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfMAX_TOKENS=5\r\nLLM_TIMEOUT=7\r\n")
    settings = read_settings(environment_with_dotenv(tmp_path))
    assert (settings.max_tokens, settings.llm_timeout_s) == (5, 7.0)


def test_without_a_file_or_with_a_folder_of_that_name_the_real_variables_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_TOKENS", "6")
    assert environment_with_dotenv(tmp_path)["MAX_TOKENS"] == "6"
    (tmp_path / ".env").mkdir()
    assert environment_with_dotenv(tmp_path)["MAX_TOKENS"] == "6"


def test_a_file_that_cannot_be_read_is_named_without_showing_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"ANTHROPIC_API_KEY=topsecret\xff\xfe\n")
    with pytest.raises(ConfigurationError, match=r"^\.env cannot be read") as caught:
        environment_with_dotenv(tmp_path)
    assert "topsecret" not in str(caught.value)
    assert caught.value.__cause__ is None
    with pytest.raises(ConfigurationError, match=r"^\.env cannot be read"):
        environment_with_dotenv(Path("x" * 5_000))


def test_a_system_that_does_not_know_the_user_still_has_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert read_settings({}).user == "unknown"
