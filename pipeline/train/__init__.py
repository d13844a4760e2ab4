"""Labelled tiles, training, evaluation, retraining."""
