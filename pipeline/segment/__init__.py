"""Segmentation: which crops, which blocks, who computes them, and what is already done."""
