"""Keeps what must outlive the program: SQLite and friends.  (floor 4)"""
