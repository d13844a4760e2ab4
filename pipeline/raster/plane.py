"""Planes of a stack: an image at every time point and depth. Pure.

A source of one plane is a plain raster, and so is its mosaic. Only where several are chosen does a mosaic
have the dimensions t and z.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import SettingsError

PlaneWish = tuple[int, ...] | slice | None
"""Planes that are asked for along an axis; None: every one."""

EVEN = 1e-6
"""Positions further from even steps than this share of a step are uneven."""


@dataclass(frozen=True, slots=True, order=True)
class Plane:
    """One plane, by its place among the chosen ones: what comes first in the mosaic is 0."""

    t: int
    z: int

    @property
    def id(self) -> str:
        """A name that sorts."""
        return f"t{self.t:03d}z{self.z:03d}"


@dataclass(frozen=True)
class StackAxis:
    """The chosen planes along t or z.

    Attributes:
        indices: Which of the source's, counted from 0.
        positions: Where they lie, in ``unit``; the indices where nothing is known.
        spacing: Distance of neighbours in the source.
        unit: ``second`` or ``micrometer``, or CF's ``days since 2020-01-01``; None where nothing is known.
    """

    indices: tuple[int, ...]
    positions: tuple[float, ...]
    spacing: float = 1.0
    unit: str | None = None

    @property
    def even_step(self) -> float | None:
        """Distance of the chosen planes; None where they do not lie evenly."""
        if len(self.positions) == 1:
            return self.spacing
        step = (self.positions[-1] - self.positions[0]) / (len(self.positions) - 1)
        expected = (self.positions[0] + index * step for index in range(len(self.positions)))
        off = max(abs(at - even) for at, even in zip(self.positions, expected, strict=True))
        return step if step > 0 and off <= EVEN * step else None

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``from_json`` takes back."""
        return {
            "indices": list(self.indices),
            "positions": list(self.positions),
            "spacing": self.spacing,
            "unit": self.unit,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "StackAxis":
        """The axis that ``to_json`` described."""
        return cls(tuple(value["indices"]), tuple(value["positions"]), value["spacing"], value["unit"])


@dataclass(frozen=True)
class Stack:
    """The chosen planes of a source."""

    t: StackAxis
    z: StackAxis

    @property
    def shape(self) -> tuple[int, int]:
        """How many along t and along z."""
        return len(self.t.indices), len(self.z.indices)

    @property
    def is_single(self) -> bool:
        """Whether there is one plane only."""
        return self.shape == (1, 1)

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``from_json`` takes back."""
        return {"t": self.t.to_json(), "z": self.z.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Stack":
        """The stack that ``to_json`` described."""
        return cls(StackAxis.from_json(value["t"]), StackAxis.from_json(value["z"]))


def planes(shape: tuple[int, int]) -> Iterator[Plane]:
    """Every plane of a stack of so many t and z: one time point after the other."""
    for t in range(shape[0]):
        for z in range(shape[1]):
            yield Plane(t, z)


def choose_planes(wish: PlaneWish, count: int, *, setting: str, where: str) -> tuple[int, ...]:
    """The numbers of the planes to compute, in the order in which they are asked for.

    Args:
        wish: What the settings ask for.
        count: How many planes the source has along this axis.
        setting: The setting's name, for errors.
        where: The source, for errors.
    """
    chosen = wish if isinstance(wish, tuple) else tuple(range(count))[wish or slice(None)]
    beyond = [number for number in chosen if not 0 <= number < count]
    if beyond or not chosen:
        got = ", ".join(str(number) for number in beyond) or "a range beyond them"
        raise SettingsError(f"{setting} must lie between 0 and {count - 1}, got {got}; {where} has {count}")
    if len(set(chosen)) < len(chosen):
        raise SettingsError(f"{setting} must name each plane once, got {list(chosen)}")
    return chosen
