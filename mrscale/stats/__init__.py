"""Pure statistics on numpy arrays and moments: no files, no engines, no tensors."""
