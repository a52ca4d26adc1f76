"""Wiring: what the verbs of the command line do, step by step."""
