"""Mendelian randomization from summary data: per-variant associations in, causal estimates out."""
