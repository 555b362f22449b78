"""Fixtures for all tests: the doors, and no settings of the person who runs the tests."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

import safe_text
from tests.support import Doors

pytest.register_assert_rewrite("tests.support_agent")  # its checks should say what they saw

# The same examples in every run: a test that fails by chance helps nobody. Look for new ones with
# HYPOTHESIS_PROFILE=search, which draws at random.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.register_profile("search", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

_FOREIGN = (
    "ALERT_", "ANTHROPIC_", "BRAVE_", "BREAKER", "GEMINI_", "HEALTH_", "MAX_", "MODEL_CHAIN", "NOTES_DIR", "RATE_LIMIT",
    "REDIS_URL", "RETRY_", "STATE_DIR", "TAVILY_",
)  # fmt: skip


@pytest.fixture(params=["blocking", "asyncio", "virtual"])
def doors(request: pytest.FixtureRequest) -> Doors:
    """Each test that takes this runs through every door."""
    return Doors(request.param)


@pytest.fixture(autouse=True)
def _no_secrets_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_text, "_known_secrets", type(safe_text._known_secrets)())


@pytest.fixture(autouse=True)
def _no_loudness_of_other_tests() -> Iterator[None]:
    """Programs that run inside a test turn the log up, down or off."""
    loggers = [logging.getLogger(name) for name in ("", "unflappable")]
    before = [(one.level, one.handlers[:], one.propagate, one.disabled) for one in loggers]
    yield
    for one, (level, handlers, propagate, disabled) in zip(loggers, before, strict=True):
        one.setLevel(level)
        one.handlers[:], one.propagate, one.disabled = handlers, propagate, disabled


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(_FOREIGN) or name.endswith(("_TIMEOUT", "_PROXY", "_proxy")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path / "no-config"))


@pytest.fixture
def _no_garbage() -> Iterator[None]:
    """An alarm that strikes while Python clears up after other tests would be told as theirs."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
