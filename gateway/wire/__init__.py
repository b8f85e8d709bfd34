"""Codecs, pure: bytes <-> values."""
