"""Rasters of any size in, segmentation mosaics out.

    raster.source → segment.plan → segment.engine → raster.mosaic → segment.audit → report

Wings: ``raster`` (windows, sources, mosaics), ``segment`` (lattice, plan, engine, executors),
``report`` (pages and pictures). Ground floor: ``errors``, ``config``, ``storage``.
"""
