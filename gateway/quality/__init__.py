"""How good the answers are: measured, not felt."""
