"""Decisions, pure: state in, answer out; no I/O, no clock of their own."""
