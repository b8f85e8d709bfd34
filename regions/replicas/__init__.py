"""Clients of a vector index, one file a kind; `base.py` is their contract."""
