"""Stages of a replay, and the threads that run them.

    ReadStage, thread "read": pairs and their reference images out of the bag
      -> FuseStage, the caller's thread: the fusion result of each pair; the engines run in
         threads "fuse_N" where several pairs are computed at once
        -> WriteStage, thread "write": output bag and video
          -> ScoreStage, thread "score": measures, tables and images

While they run, each stage is used by its own thread alone. Only items cross threads, through
the queues of `ivf_core.replay.threads`; a stage does not touch an item that it has passed on.
The caller's thread creates the stages, and reads their attributes after the threads have ended,
which is when `ivf_core.replay.run.run_stages` returns.
"""
