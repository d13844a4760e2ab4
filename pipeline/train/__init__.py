"""Labelled tiles in, a promoted model out: tiles → loop → validate → checkpoint; evaluate; retrain."""
