"""Watches what happens and tells it: traces, logs, metrics; listeners on events only.  (floor 4)"""
