"""Measurements: what the program costs, printed as tables."""
