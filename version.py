"""Which version of the program this is.  (floor 0)

Alone in a file because the screen, the health checks and the agent all say it, on different floors.
"""

from __future__ import annotations

VERSION = "0.1.0"
