"""Plug-ins for registers, one file a kind; `base.py` is their contract."""
