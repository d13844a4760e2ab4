"""Rasters of any size in, segmentation mosaics out.

    raster.source → segment.plan → segment.engine → raster.mosaic → segment.audit → report
    train.tiles → train.loop → train.evaluate → registry

Wings: ``raster`` (windows, sources, mosaics, exports), ``segment`` (lattice, plan, engine, executors),
``train`` (tiles, loop, evaluation, retraining), ``report`` (pages, pictures, viewer), ``synthetic`` and
``demo``, ``kubernetes`` (the nightly pod). Ground floor: ``errors``, ``config``, ``storage``, ``registry``.
"""
