"""The face: what a person sees and types in the terminal.  (floor 6)"""
