"""Plans failures on purpose, so that everybody can watch what happens then.  (floor 1)

    TARGET:KIND[=ARGUMENT][@RATE][*COUNT][+AFTER]

    model:rate_limit@0.3      30 % of model attempts answer 429
    model:cut=text*1          the next stream breaks in the middle of its text
    get_weather:hang          it never answers
    save_note:slow=15*1+2     the third save takes 15 s
    get_weather:stale         it answers, but with what was true two days ago
    save_note:crash=after     the process is killed when the note is saved and nobody knows it yet

This file only decides; whoever performs an attempt asks `plan.next(target)` once and acts on
the answer. How a plan decides:
- The specs are asked in their order; the first one that strikes wins, those behind it are not asked.
- A spec is asked about an attempt when its target is `*`, the attempt's target or a dotted
  prefix of it (`get_weather` covers `get_weather.open_meteo`), and when its kind makes sense there:
  `*:cut` strikes model streams and leaves tools and the disk alone. A lie (`wrong`, `stale`, `swapped`,
  `noop`) is told only by a tool that can tell it: it says so where it asks.
- AFTER spares the first attempts a spec is asked about. Then RATE is drawn; only a strike spends COUNT.
- Draws are not taken from one stream but computed from (seed, spec, target, n): the same seed
  gives a dependency the same failures, whatever runs beside it.

What it deliberately does not do: perform a fault, know which tools exist (the caller says), sleep.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from errors import ConfigurationError
from safe_text import one_line

GRAMMAR = "TARGET:KIND[=ARGUMENT][@RATE][*COUNT][+AFTER]"

SECONDS_MAX = 1_000_000.0
"""The longest time a fault may name (11 days): beyond it some platforms' timers overflow."""

_ANYWHERE = frozenset({"model", "tool", "disk", "redis"})
_OUTSIDE = frozenset({"model", "tool"})
_NETWORK = frozenset({"model", "tool", "redis"})
_MODEL = frozenset({"model"})
_TOOL = frozenset({"tool"})

LIES = ("wrong", "stale", "swapped", "noop")
"""Kinds by which a tool reports success and should not be believed; each tool can tell only some of them."""

_STRIKES: dict[str, frozenset[str]] = {
    "error": _ANYWHERE, "slow": _ANYWHERE, "hang": _ANYWHERE,
    "rate_limit": _OUTSIDE, "overloaded": _OUTSIDE, "server_error": _OUTSIDE, "auth": _NETWORK,
    "refused": _NETWORK, "reset": _NETWORK, "garbage": _NETWORK, "html": _OUTSIDE,
    "bad_request": _MODEL, "cut": _MODEL, "stall": _MODEL, "bad_tool": _MODEL, "bad_args": _MODEL,
    "loop": _MODEL, "refusal": _MODEL, "max_tokens": _MODEL,
    "full": frozenset({"disk"}),
    "crash": frozenset({"model", "tool", "disk"}),
    **dict.fromkeys(LIES, _TOOL),
}  # fmt: skip
_WORDS = {  # the first is the default
    "cut": ("text", "start", "tool", "end"), "stall": ("text", "tool"), "crash": ("before", "after"),
}  # fmt: skip
_EXAMPLES = {**dict.fromkeys(LIES, "get_weather"), "noop": "save_note", "full": "disk"}
_SECONDS = {"slow": True, "rate_limit": False}  # whether the number must be given

KINDS = tuple(_STRIKES)
"""Every kind of fault that can be injected."""

_PARTS = re.compile(
    r"(?P<kind>[^=@*+]*)(?:=(?P<argument>[^@*+]*))?(?:@(?P<rate>[^*+]*))?(?:\*(?P<count>[^+]*))?(?:\+(?P<after>.*))?"
)
_NUMBER = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE]-?[0-9]+)?")
_WHOLE = re.compile(r"[0-9]{1,9}")
_MODEL_TARGET = re.compile(r"model(?:\.[a-z0-9_-]+(?:\.\S+)?)?")
_TOOL_TARGET = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


@dataclass(frozen=True, slots=True)
class FaultSpec:
    """One parsed spec. `count` None = without end; `text` is the spec as it was written."""

    target: str
    kind: str
    argument: str | None = None
    rate: float = 1.0
    count: int | None = None
    after: int = 0
    text: str = ""

    def __str__(self) -> str:
        return self.text or f"{self.target}:{self.kind}"

    def concerns(self, target: str, lies: Collection[str] = ()) -> bool:
        """Whether this spec is asked about attempts on `target`, which can tell these lies."""
        named = self.target in ("*", target) or target.startswith(self.target + ".")
        fits = self.kind in lies if self.kind in LIES else _role(target) in _STRIKES[self.kind]
        return named and fits


@dataclass(frozen=True, slots=True)
class Fault:
    """What strikes one attempt on `target`; `spec` is the text of the spec it comes from."""

    kind: str
    argument: str | None
    target: str
    spec: str
    _entry: _Entry | None = field(default=None, repr=False, compare=False)

    def seconds(self, default: float) -> float:
        """The argument in seconds, `default` where none was given."""
        return default if self.argument is None else float(self.argument)


# --- parsing ---------------------------------------------------------------------------------------------


def parse_fault(spec: str, known: Collection[str] | None = None) -> FaultSpec:
    """Read one spec.

    Args:
        spec: as typed, see the grammar above.
        known: the names of tools and tool providers there are; None = any name will do. A mapping
            also tells which lies each can tell; else any of them may.

    Raises ConfigurationError: which spec, what is wrong with it, what is allowed.
    """
    text = spec.strip()
    target, colon, rest = text.rpartition(":")  # from the right: model names may contain colons
    parts = _PARTS.fullmatch(rest)
    if not colon or parts is None:
        raise _wrong(text, "it is not of the form", GRAMMAR)
    kind = _kind(text, parts["kind"])
    _check_target(text, target, known)
    fitting = _fitting(target, known)
    if kind not in fitting:
        raise _wrong(text, f"{kind} does not strike {_shown(target)}; kinds for it:", ", ".join(fitting))
    return FaultSpec(
        target,
        kind,
        _argument(text, kind, parts["argument"]),
        _rate(text, parts["rate"]),
        _whole(text, "COUNT", parts["count"], 1),
        _whole(text, "AFTER", parts["after"], 0) or 0,
        text,
    )


def _fitting(target: str, known: Collection[str] | None) -> Sequence[str]:
    """The kinds that can strike this target."""
    if target == "*":
        return KINDS
    fitting = [kind for kind in KINDS if _role(target) in _STRIKES[kind]]
    if isinstance(known, Mapping) and _role(target) == "tool":
        lies = {lie for name, told in known.items() if f"{name}.".startswith(f"{target}.") for lie in told}
        fitting = [kind for kind in fitting if kind not in LIES or kind in lies]
    return fitting


def _kind(text: str, kind: str) -> str:
    if kind not in _STRIKES:
        raise _wrong(text, f"unknown kind {_shown(kind)}{_meant(kind, KINDS)}; kinds:", ", ".join(KINDS))
    return kind


def _check_target(text: str, target: str, known: Collection[str] | None) -> None:
    if target in ("*", "disk", "redis") or _MODEL_TARGET.fullmatch(target):
        return
    listed = known is None or any(name == target or name.startswith(target + ".") for name in known)
    if not listed or not _TOOL_TARGET.fullmatch(target) or _role(target) != "tool":
        guess = _meant(target, ["model", "disk", "redis", *(known or ())])
        raise _wrong(text, f"unknown target {_shown(target)}{guess}; targets:", _targets(known))


def _argument(text: str, kind: str, argument: str | None) -> str | None:
    words = _WORDS.get(kind)
    if words:
        if argument is not None and argument not in words:
            raise _wrong(text, f"{kind} takes", " or ".join(words))
        return argument or words[0]
    if kind in _SECONDS:
        if argument is None and _SECONDS[kind]:
            raise _wrong(text, f"{kind} needs seconds:", f"{kind}=15")
        if argument is not None and _number(argument, SECONDS_MAX) is None:
            raise _wrong(text, f"{kind} takes seconds from 0 to {SECONDS_MAX:.0f}, as in", f"{kind}=15")
        return argument
    if argument is not None:
        raise _wrong(text, f"{kind} takes no argument, as in", f"{_EXAMPLES.get(kind, 'model')}:{kind}")
    return None


def _rate(text: str, rate: str | None) -> float:
    value = 1.0 if rate is None else _number(rate, 1.0)
    if value is None:
        raise _wrong(text, f"RATE {_shown(rate or '')} is not a number from 0 to 1;", f"write {GRAMMAR}")
    return value


def _whole(text: str, name: str, value: str | None, least: int) -> int | None:
    if value is None:
        return None
    if not _WHOLE.fullmatch(value) or int(value) < least:
        what = f"{name} {_shown(value)} is not a whole number from {least} up;"
        raise _wrong(text, what, f"write {GRAMMAR}")
    return int(value)


def _number(text: str, highest: float) -> float | None:
    value = float(text) if _NUMBER.fullmatch(text) else None
    return value if value is not None and value <= highest else None


def _wrong(spec: str, problem: str, allowed: str) -> ConfigurationError:
    return ConfigurationError(
        f"fault {_shown(spec)}: {problem} {allowed}", what_now="Correct the fault, or leave it out."
    )


def _shown(text: str) -> str:
    return f"'{one_line(text, 80)}'"


def _meant(word: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(word.lower(), list(names), 1)
    return f" (did you mean {close[0]}?)" if close else ""


def _targets(known: Collection[str] | None) -> str:
    named = sorted(known or ["a tool"])
    return ", ".join(["model", "model.PROVIDER", "model.PROVIDER.MODEL", *named, "disk", "redis", "*"])


def _role(target: str) -> str:
    first = target.partition(".")[0]
    return first if first in ("model", "disk", "redis") else "tool"


# --- the plan --------------------------------------------------------------------------------------------


class _Entry:
    """One spec at work: what it was asked about and how often it struck."""

    __slots__ = ("asked", "asked_by_target", "ordinal", "spec", "struck")

    def __init__(self, spec: FaultSpec, ordinal: int) -> None:
        self.spec, self.ordinal = spec, ordinal  # ordinal: twins draw from different streams
        self.asked = self.struck = 0
        self.asked_by_target: Counter[str] = Counter()

    @property
    def spent(self) -> bool:
        return self.spec.count is not None and self.struck >= self.spec.count

    def strikes(self, target: str, seed: int) -> bool:
        self.asked += 1
        self.asked_by_target[target] += 1
        if self.spent or self.asked <= self.spec.after:
            return False
        if self.spec.rate < 1:
            n = self.asked_by_target[target]
            if _draw(f"{seed}/{self.spec}/{self.ordinal}/{target}/{n}") >= self.spec.rate:
                return False
        self.struck += 1
        return True


def _draw(key: str) -> float:
    """A number in [0, 1) that belongs to this key for ever."""
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()) / 2**64


class Crashed(BaseException):
    """The process should have died here, and there is none to kill: a simulation, or a test."""


class FaultPlan:
    """The faults that are on. One plan serves the flags, `/fault` in the chat and the tests. Thread-safe.

    Args:
        specs: in the order in which they are asked.
        seed: the same seed repeats the same decisions.
        kill: ends the process at once, for `crash`; where it comes back, `Crashed` is raised.
    """

    def __init__(
        self, specs: Sequence[FaultSpec] = (), seed: int = 0, kill: Callable[[], object] = lambda: None
    ) -> None:
        self.seed = seed
        self._kill = kill
        self._lock = threading.Lock()
        self._entries: list[_Entry] = []
        self.replace(specs)

    def next(self, target: str, lies: Collection[str] = ()) -> Fault | None:
        """The fault that strikes this attempt on `target`, if any. Ask once an attempt; `lies`: those it can tell."""
        if not self._entries:
            return None
        with self._lock:
            for entry in self._entries:
                spec = entry.spec
                if spec.concerns(target, lies) and entry.strikes(target, self.seed):
                    return Fault(spec.kind, spec.argument, target, str(spec), entry)
        return None

    def give_back(self, fault: Fault) -> None:
        """The fault could not be performed (a `cut=text` on a stream without text): its COUNT is not spent."""
        entry = fault._entry
        if entry is not None:
            with self._lock:
                entry.struck = max(0, entry.struck - 1)

    def crash(self, fault: Fault) -> NoReturn:
        """Die of this fault. Tell everybody first: afterwards nobody is there."""
        self._kill()
        raise Crashed(fault.spec)

    @property
    def specs(self) -> tuple[FaultSpec, ...]:
        """All specs of the plan, those that are spent included."""
        return tuple(entry.spec for entry in self._entries)

    @property
    def active(self) -> bool:
        """Whether some spec may still strike."""
        return any(not entry.spent for entry in self._entries)

    def replace(self, specs: Sequence[FaultSpec]) -> None:
        """These and no others, counting from the start."""
        with self._lock:
            self._entries = []
            for spec in specs:
                self._append(spec)

    def add(self, spec: FaultSpec) -> None:
        """One more, asked after the others."""
        with self._lock:
            self._append(spec)

    def clear(self) -> None:
        """No faults any more."""
        self.replace(())

    def _append(self, spec: FaultSpec) -> None:
        twins = sum(entry.spec == spec for entry in self._entries)
        self._entries = [*self._entries, _Entry(spec, twins)]
