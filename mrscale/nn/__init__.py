"""Torch modules and losses: pure functions of tensors, without files and without processes."""
