"""Labelled tiles in, a promoted model out. How data flow, and where to read of it.

- ``tiles/``: what lies on storage → a manifest of good tiles, their splits and statistics.
- ``config`` → ``resolve`` → ``job``: settings → one frozen object with every choice made, for all processes.
- ``run`` → ``workplace`` → ``conclusion``: the whole of a run; who computes: ``local_workers`` here or
  ``trainer`` on Ray (with ``desk``, ``watch``, ``background``, ``ray_storage``,
  ``ray_patience``); its end.
- ``sampler`` → ``samples`` → ``batches``: a sample's number → its tile and place (``positions``,
  ``tile_cache``) → a crop (``augment``) → the parts of a step, loaded ahead (``loading_processes``).
- ``loop``, in a ``context``: a worker's steps (``initial``, ``step``, ``optimizer``, ``ema``, ``precision``),
  kept by ``state``, told by ``telling``, ``clock``, ``run_log`` and ``board``.
- ``validate``: whole tiles through ``tile_segmenter`` → ``validation``, ``tile_pictures``.
- ``evaluate/`` a mosaic against labels; ``suggest/`` where labels would help most; ``baselines/`` what a
  model must beat; ``retrain/`` new tiles → challenger → verdict → champion.
"""
