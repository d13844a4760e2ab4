"""The closed loop: new tiles, a challenger, the verdict."""
