"""Labelled tiles: found, measured, split, written down and read by window."""
