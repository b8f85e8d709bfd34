"""Where answers are kept: one file a kind; `base.py` says what one must do."""
