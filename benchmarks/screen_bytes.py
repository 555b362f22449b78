"""How many bytes the terminal gets for each character of an answer, and how long showing it takes.

The floor is 2: each character is written raw while its block is unfinished and once more
rendered. What comes on top is erasing, layout and colour. rich's Live writes 5.9 MB for a
149-line answer, and a code theme with background and padding 26 bytes for each character.

Run: python -m benchmarks.screen_bytes
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from ui.markdown_stream import MarkdownStream
from ui.theme import Theme

BYTES_MIXED_MAX, BYTES_CODE_MAX = 3.0, 5.0

_MIXED = """\
# Retrying what fails

A *retry* is only safe when the call may be **repeated**. Use `retry` for reads, and for
writes that carry an idempotency key. See [the paper](https://example.org/timeouts) for why.

- the first attempt may have been heard, although its answer was lost
- the second one then finds the work done
  - and must be able to tell
- jitter keeps a thousand clients from coming back in the same instant

1. wait, doubling each time
2. add chance
3. stop at the deadline

> Nothing outlives the deadline.

| layer | wait | why |
|-------|-----:|-----|
| retry | 1 s  | transient failures pass |
| chain | 0 s  | another model may be healthy |

```python
def backoff(attempt: int, draw: Callable[[], float]) -> float:
    # full jitter: after the cap, or the cap makes them meet again
    return draw() * min(30.0, 1.0 * 2**attempt)
```

---

Das gilt auch für Umlaute, 漢字 und 🙂. The last paragraph is an ordinary one of some length,
such as most answers are made of, without any markup at all.

"""

_CODE = '''\
```python
class CircuitBreaker:
    """Opens after five failures in a row."""

    def __init__(self, name: str, *, failure_threshold: int = 5, open_s: float = 60.0) -> None:
        self.name, self.failures, self.opened_at_s = name, 0, None
        self._threshold, self._open_s = failure_threshold, open_s

    def settle(self, ok: bool, now_s: float) -> str | None:
        if ok:
            self.failures = 0  # no decay with time
            return None
        self.failures += 1
        if self.failures >= self._threshold:
            self.opened_at_s = now_s
            return f"{self.name} opened after {self.failures} failures"
        return None


for number in range(10):
    print(CircuitBreaker("x").settle(number % 2 == 0, 1.5 * number))
```

'''


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: bytes written for each character streamed, the most allowed, and CPU time."""

    document: str
    characters: int
    bytes_per_character: float
    bytes_max: float
    ms_per_1000_characters: float

    @property
    def holds(self) -> bool:
        """Whether the measurement is within what is allowed."""
        return self.bytes_per_character <= self.bytes_max


def measured(name: str, document: str, bytes_max: float, *, columns: int = 80, rows: int = 24, seed: int = 1) -> Row:
    """Stream a document in pieces as models send them (1 to 12 characters) and count what is written."""
    sent: list[str] = []
    stream = MarkdownStream(sent.append, lambda: columns, lambda: rows, Theme(moves=True, colour=True, unicode=True))
    draw = random.Random(seed)
    started_s = time.process_time()
    position = 0
    while position < len(document):
        size = draw.randint(1, 12)
        stream.feed(document[position : position + size])
        position += size
    stream.finish()
    took_s = time.process_time() - started_s
    written = len("".join(sent).encode())
    return Row(name, len(document), written / len(document), bytes_max, took_s * 1e6 / len(document))


def run() -> list[Row]:
    """All rows of the table."""
    long_code = "```python\n" + "".join(_CODE.splitlines(keepends=True)[1:-2]) * 40 + "```\n"
    measured("warm-up", _MIXED, BYTES_MIXED_MAX)  # imports are not what is measured
    return [
        measured("mixed", _MIXED * 10, BYTES_MIXED_MAX),
        measured("mixed, 120 x 40", _MIXED * 10, BYTES_MIXED_MAX, columns=120, rows=40),
        measured("code", _CODE * 10, BYTES_CODE_MAX),
        measured("code, one block", long_code, BYTES_CODE_MAX),
    ]


def main() -> int:
    """Print the table; 1 when a limit is broken."""
    rows = run()
    print(f"{'document':<18}{'characters':>11}{'bytes/char':>12}{'allowed':>9}{'ms/1000 chars':>15}")
    for row in rows:
        verdict = "" if row.holds else "  too many"
        print(
            f"{row.document:<18}{row.characters:>11,}{row.bytes_per_character:>12.2f}{row.bytes_max:>9.1f}"
            f"{row.ms_per_1000_characters:>15.1f}{verdict}"
        )
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
