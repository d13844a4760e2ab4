"""The demo: a landscape, a network that learns it, its map, and an honest comparison, in a few minutes."""
