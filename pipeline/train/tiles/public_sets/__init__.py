"""Published data sets as tile sets: where their unpacked files lie, their classes, colours and splits."""
