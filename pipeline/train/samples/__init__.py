"""The n-th sample of a run: its tile, its place, its crop, changed and loaded ahead."""
