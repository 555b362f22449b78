"""Each example runs on its own, offline, and shows what it is there to show."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(name: str) -> list[str]:
    """The lines an example prints, run as its docstring says; it must end well and complain of nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", f"examples.{name}"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [line.strip() for line in done.stdout.splitlines()]


def test_retry_a_call_gets_its_answers_at_the_third_try_and_asks_a_bug_once() -> None:
    lines = run("retry_a_call")
    assert [re.sub(r"\D", "", line) for line in lines if line.startswith("request")] == list("1245")
    assert "A plain function got 'the answer'" in lines
    assert "An async function got 'the answer'" in lines
    assert lines.count("called once") == 1
    assert lines[-1].startswith("invalid literal")


def test_fallback_chain_skips_the_dead_first_and_ends_with_an_old_answer() -> None:
    lines = run("fallback_chain")
    assert lines.count("first: asked, and down") == 2  # of four questions: then its circuit is open
    assert "second says hello to 'three'" in lines
    assert lines.count("an answer to 'the hard one' from an hour ago") == 1
    assert lines[-1] == "not hidden behind the second: the API key was refused"


def test_breaker_around_your_client_opens_makes_no_requests_and_heals() -> None:
    lines = run("breaker_around_your_client")
    assert lines[:2] == ["up: 200", "up: 200"]
    assert sum("HTTPStatusError" in line for line in lines) == 3
    turned_away = [line for line in lines if ": CircuitOpen," in line]
    assert len(turned_away) == 4
    assert all(line.endswith("5 requests so far") for line in turned_away)
    events = [re.sub(r"\(.*", "", line) for line in lines if "(dependency='shop'" in line]
    assert events == ["CircuitOpened", "CircuitHalfOpened", "CircuitClosed"]
    assert lines[-2:] == ["mended: 200", "mended: 200"]


def test_custom_tool_is_called_retried_and_quoted() -> None:
    assert run("custom_tool") == [
        "the model calls shipping_cost with {'weight_kg': 3, 'country': 'FR'}",
        "shipping_cost failed (server_error): it is tried again",
        "shipping_cost ended: ok, 2 attempts",
        "ok: The tool says: 10.00 euros to FR",
    ]


def test_every_example_is_run_here_and_says_how() -> None:
    here = Path(__file__).read_text()
    for path in (ROOT / "examples").glob("*.py"):
        if path.stem in ("__init__", "scripted_model"):
            continue
        assert f'run("{path.stem}")' in here, f"nothing runs {path.name}"
        assert f"`python -m examples.{path.stem}`" in path.read_text()
