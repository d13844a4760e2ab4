"""Labelled tiles in, a promoted model out. How data flow, and where to read of it.

- ``tiles/``: what lies on storage → a manifest of good tiles, their splits and statistics.
- ``config`` → ``resolve`` → ``job``: settings → one frozen object with every choice made, for all processes.
- ``run`` → ``workers/`` → ``conclusion``: the whole of a run; who computes, ``local_workers`` here or
  ``trainer`` on Ray; its end.
- ``samples/``: ``sampler`` → ``sample`` → ``batches``: a sample's number → its tile and place → a crop → the
  parts of a step, loaded ahead.
- ``loop``: a worker's steps (``initial``, ``steps/``), kept by ``state`` as long as ``holding`` lasts, told
  by ``telling``, ``clock``, ``run_log`` and ``board``.
- ``validation/``: whole tiles through ``tile_segmenter`` → ``figures``, ``tile_pictures``.
- ``evaluate/`` a mosaic against labels; ``suggest/`` where labels would help most; ``baselines/`` what a
  model must beat; ``retrain/`` new tiles → challenger → verdict → champion.
"""
