"""The agent itself: one question from start to end, and the history it leaves behind."""
