"""Plug-ins for embedding models, one file a kind; `base.py` is their contract."""
