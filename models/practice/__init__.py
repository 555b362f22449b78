"""The practice model: a small offline stand-in that speaks the real Messages protocol (floor 4)."""
