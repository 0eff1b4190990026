"""Workers, the scheduler and the Dask executor: who runs the pipeline, when and where."""
