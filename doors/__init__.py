"""Doors run flows: they perform effects and contain no decision."""
