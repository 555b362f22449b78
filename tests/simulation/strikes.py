"""What can go wrong in a simulated world, where, and which of it has happened.

A *strike* is one fault at one boundary: `os.fsync:EIO+2` fails the third fsync of a question with EIO. Those
that the product itself can inject (`model`, a tool, `disk`) are handed to its own injector, `faults.py`; the rest
strikes from outside, where no flag reaches. `CELLS` is the whole matrix: a campaign in which one of its cells was
never hit has shown nothing about it, and fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

CLAUDE, GEMINI = "model.anthropic", "model.google"

_WIRE = (
    "error", "slow=3", "hang", "rate_limit", "rate_limit=2", "overloaded", "server_error", "auth", "refused", "reset",
    "garbage", "html", "bad_request", "cut=start", "cut=text", "cut=tool", "cut=end", "stall=text", "stall=tool",
    "bad_tool", "bad_args", "loop", "refusal", "max_tokens", "crash=before", "crash=after",
)  # fmt: skip
_STREAM = (
    "status_402", "status_404", "status_408", "status_413", "status_500_late", "error_start", "error_text", "error_end",
    "byte_cut", "byte_flip", "pings", "drip", "dns", "tls", "reset_text", "reset_after_end", "unknown_events", "twice",
)  # fmt: skip
_TOOL = ("error", "slow=3", "hang", "crash=before", "crash=after")
_LIES = {
    "calculator": ("wrong",), "save_note": ("noop",), "find_notes": ("wrong", "swapped"),
    "get_weather.open_meteo": ("wrong", "stale", "swapped"), "web_search.tavily": ("swapped",),
    "web_search.wikipedia": ("swapped",),
}  # fmt: skip
_PROVIDER = (
    *_TOOL, "rate_limit", "rate_limit=2", "overloaded", "server_error", "auth", "refused", "reset", "garbage", "html",
)  # fmt: skip
_FETCH = (
    "refused", "dns", "hang", "slow", "status_401", "status_429", "status_500", "status_301", "page", "half", "absurd",
    "empty", "leak",
)  # fmt: skip
_OUTAGES = (
    "server_error", "overloaded", "refused", "hang", "rate_limit=2", "rate_limit=60", "cut=text", "garbage", "loop",
    "bad_args", "max_tokens",
)  # fmt: skip
_EFFECTS = (
    "AskModel", "Converse", "Pause", "Attempt", "Blocking", "Fetch", "AskHuman", "RunTools", "Together", "Within",
    "Checkpoint", "RecordIntents", "RecordOutcome", "Emit",
)  # fmt: skip
_LEAVES = ("Pause", "Blocking", "Converse", "Fetch", "AskHuman")
"""Where doors wait: only there Ctrl-C reaches a flow. A kill comes anywhere."""
_ERRNOS: dict[str, tuple[str, ...]] = {
    "mkdir": ("EACCES", "ENOSPC", "EROFS"),
    "create": ("EACCES", "EMFILE", "ENOSPC", "EROFS", "EINTR"),
    "open": ("EACCES", "EMFILE", "EIO"),
    "write": ("ENOSPC", "EIO", "EDQUOT", "short"),
    "read": ("EIO",),
    "fsync": ("EIO", "ENOSPC"),
    "fsync_folder": ("EIO",),
    "close": ("EIO", "EINTR"),
    "rename": ("EIO", "ENOSPC", "EACCES", "lost"),
    "lstat": ("EIO", "EACCES"),
    "scandir": ("EIO", "EACCES"),
    "unlink": ("EIO",),
}
_WRITES = ("mkdir", "create", "write", "fsync", "fsync_folder", "close", "rename")

CELLS: tuple[tuple[str, str], ...] = (
    *((model, kind) for model in (CLAUDE, GEMINI) for kind in _WIRE),
    *((f"stream.{dialect}", kind) for dialect in ("anthropic", "google") for kind in _STREAM),
    *((tool, kind) for tool in ("calculator", "save_note", "find_notes") for kind in _TOOL),
    *((name, kind) for name in ("get_weather.open_meteo", "web_search.tavily", "web_search.wikipedia")
      for kind in _PROVIDER),
    *((name, kind) for name, kinds in _LIES.items() for kind in kinds),
    *(("disk", kind) for kind in (*_TOOL, "full")),
    *(("fetch", kind) for kind in _FETCH),
    *(("outage.model", kind) for kind in _OUTAGES),
    *(("outage.model.anthropic", kind) for kind in _OUTAGES),
    *((f"outage.{tool}", kind) for tool in ("get_weather", "web_search")
      for kind in ("error", "hang", "rate_limit=60")),
    *((f"outage.{tool}", "error") for tool in ("calculator", "save_note", "disk")),
    *((f"os.{call}", kind) for call, kinds in _ERRNOS.items() for kind in kinds),
    *((f"os.{call}", kind) for call in _WRITES for kind in ("kill", "power")),
    *(("db.begin", kind) for kind in ("error", "kill", "power")),
    *(("db.commit", kind) for kind in ("error", "full", "kill", "power")),
    *(("db.committed", kind) for kind in ("kill", "power")),
    *((f"aside.{what}", kind) for what in ("RunTools", "Checkpoint", "RecordIntents", "RecordOutcome")
      for kind in ("late", "slow", "hang")),
    *(("human", kind) for kind in ("no", "nobody", "slow", "never")),
    *((f"effect.{effect}", kind) for effect in _EFFECTS for kind in ("interrupt_in", "kill", "power")),
    *((f"effect.{effect}", "interrupt") for effect in _LEAVES),
)  # fmt: skip

PATHS: tuple[tuple[str, str], ...] = (
    *(("question", status) for status in ("ok", "degraded", "failed", "needs_human", "cancelled")),
    *(("call", status) for status in ("ok", "invalid", "failed", "degraded", "denied", "unknown", "skipped")),
    *(("after death", choice) for choice in ("resume", "go_on", "task")),
    *(("event", name) for name in (
        "AttemptAbandoned", "RetryScheduled", "RetryRefused", "LimiterWaited", "CallRejected", "CircuitOpened",
        "CircuitHalfOpened", "CircuitClosed", "FellBack", "TurnResumed", "TurnPoisoned", "StoreFailed", "StuckNoticed",
        "EffectReconciled", "ApprovalAsked", "NoticeGiven",
    )),
)  # fmt: skip
"""What must have come of it somewhere: every way a question or a call can end, every turn an attempt can take."""

INJECTED = ("outage.", "model.", "disk", "calculator", "save_note", "find_notes", "get_weather", "web_search")
"""Where the product's own injector strikes."""


@dataclass(frozen=True, slots=True, order=True)
class Strike:
    """One fault: at the boundary `where`, when it is met for the time after the first `after`."""

    where: str
    kind: str
    after: int = 0

    def __str__(self) -> str:
        return f"{self.where}:{self.kind}+{self.after}"

    @property
    def is_injected(self) -> bool:
        """Whether it is one that users can ask for, too."""
        return self.where.startswith(INJECTED)

    @property
    def ends_the_process(self) -> bool:
        """Whether all it does is to kill."""
        return self.kind in ("kill", "power", "crash=before", "crash=after")

    @property
    def spec(self) -> str:
        """As the product's injector takes it."""
        once = "" if self.lasts else "*1"
        return f"{self.target}:{self.kind}{once}+{self.after}"

    @property
    def lasts(self) -> bool:
        """Whether it strikes again and again, to the end of the question."""
        return self.where.startswith("outage.")

    @property
    def target(self) -> str:
        """What it strikes, as the product names it."""
        return self.where.removeprefix("outage.")


@dataclass(slots=True)
class Strikes:
    """The strikes of the question under way, and which struck.

    Args:
        waiting: those still to come.
    """

    waiting: list[Strike] = field(default_factory=list)
    hits: Counter[tuple[str, str]] = field(default_factory=Counter)
    _met: Counter[str] = field(default_factory=Counter)

    def replace(self, strikes: Iterable[Strike]) -> None:
        """From now on these, counting from the start."""
        self.waiting, self._met = [one for one in strikes if not one.is_injected], Counter()

    def at(self, where: str) -> str:
        """The kind that strikes here and now; "" for none."""
        if not self.waiting:
            return ""
        met = self._met[where]
        self._met[where] += 1
        for one in self.waiting:
            if one.where == where and one.after == met:
                self.waiting.remove(one)
                self.hits[where, one.kind] += 1
                return one.kind
        return ""
