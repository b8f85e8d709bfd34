"""Stages: when to ask a policy, and the thin asynchronous glue around it; `base.py` says what one is."""
