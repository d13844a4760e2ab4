"""One optimiser step: rates, number formats, the moving average."""
