"""Kubernetes: its client, and what Flopwise's values look like there, both ways."""
