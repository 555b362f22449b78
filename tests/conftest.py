"""Fixtures for all tests: the doors, and no settings of the person who runs the tests."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

from tests.support import Doors

pytest.register_assert_rewrite("tests.support_agent")  # its checks should say what they saw

# The same examples in every run: a test that fails by chance helps nobody. Look for new ones with
# HYPOTHESIS_PROFILE=search, which draws at random.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.register_profile("search", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

_FOREIGN = ("ANTHROPIC_", "TAVILY_", "BRAVE_", "GEMINI_", "RATE_LIMIT", "BREAKER", "MODEL_CHAIN", "RETRY_", "MAX_")


@pytest.fixture(params=["blocking", "asyncio", "virtual"])
def doors(request: pytest.FixtureRequest) -> Doors:
    """Each test that takes this runs through every door."""
    return Doors(request.param)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(_FOREIGN) or name.endswith(("_TIMEOUT", "_PROXY", "_proxy")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path / "no-config"))
