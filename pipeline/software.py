"""How outputs name the program that made them."""

from importlib.metadata import PackageNotFoundError, version


def software() -> str:
    """Name and version; where only a working directory was submitted, nothing is installed that knows it."""
    try:
        return f"terrazzo {version('terrazzo')}"
    except PackageNotFoundError:
        return "terrazzo, not installed"
