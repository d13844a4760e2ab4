"""Whole tiles through the network as scenes go through it, and the figures that follow."""
