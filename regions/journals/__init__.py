"""Plug-ins: append-only streams of small records in a region, beside its change log."""
