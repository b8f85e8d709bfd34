"""Plug-ins for LLMs, one file a kind; `base.py` is their contract."""
