"""Plug-ins for change logs, one file a kind; `base.py` is their contract."""
