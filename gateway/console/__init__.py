"""The operators' console: what it shows (pure), and its page. `edge.console` serves both."""
