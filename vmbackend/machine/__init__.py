"""One machine: its settings, files, states, and the way from start to stop."""
