"""Drills: every fault this agent promises to survive, played on this machine."""
