"""OME-NGFF as its own models check it, where ome-zarr-models is installed."""

import importlib
import pkgutil

import pytest
import zarr


def validated(path, version, kind):
    """The group at a path as ome-zarr-models has it; skips loudly where that is not installed.

    Args:
        path: The group.
        version: ``0.4`` or ``0.5``.
        kind: ``Image`` or ``ImageLabel``.
    """
    pytest.importorskip("ome_zarr_models", reason="OME-NGFF is validated with ome-zarr-models: install it")
    name = f"ome_zarr_models.v{version.replace('.', '')}"
    _complete(importlib.import_module(name), "pydantic_zarr.v2" if version == "0.4" else "pydantic_zarr.v3")
    model = getattr(importlib.import_module(f"{name}.{'image' if kind == 'Image' else 'image_label'}"), kind)
    return model.from_zarr(zarr.open_group(str(path), mode="r", use_consolidated=False))


def _complete(package, namespace):
    """Newer versions of pydantic than the models' own leave forward references open: close them."""
    names = vars(importlib.import_module(namespace))
    modules = [importlib.import_module(f"{package.__name__}.{found.name}")
               for found in pkgutil.iter_modules(package.__path__)]  # fmt: skip
    models = {value for module in modules for value in vars(module).values()
              if isinstance(value, type) and hasattr(value, "model_rebuild")
              and value.__module__.startswith("ome_zarr_models")}  # fmt: skip
    for _ in range(4):  # models that hold others are completed after them
        for model in sorted(models, key=lambda model: model.__name__):
            if not model.__pydantic_complete__:
                model.model_rebuild(force=True, raise_errors=False, _types_namespace=dict(names))
