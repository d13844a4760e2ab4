"""Command lines for ``ray job submit``: parse, call one function, return an exit code."""
