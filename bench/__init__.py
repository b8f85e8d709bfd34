"""Measurements: each module prints a report and writes it under `bench/results/`."""
