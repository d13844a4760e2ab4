"""Pages and pictures, made from the plain JSON that a run leaves behind."""
