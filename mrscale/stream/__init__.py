"""Dask: the only place that moves blocks of rows between the store and the statistics."""
