"""What a trained model must beat on its own tiles: the commonest class, the bands alone, a plain script."""
