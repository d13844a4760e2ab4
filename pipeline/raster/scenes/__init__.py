"""Many scenes as one raster: listed, looked at, laid on one grid, warped cell by cell, composed.

Read in this order: ``listing`` (what a list names), ``look`` (what the files say of themselves), ``target``
(the grid), ``scene`` (the plain data that travels to workers), ``warp`` (one file on a cell), ``composite``
(several scenes on a cell), ``scene_source`` (the ``RasterSource``), ``find`` (all of it in order).
"""
