"""The genotype store: one Zarr v3 group, sample-major, environments contiguous."""
