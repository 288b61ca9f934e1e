"""What hardware is, how fast work runs on it, and what it costs."""
