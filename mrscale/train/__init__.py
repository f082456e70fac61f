"""Training loops and encoders; the only place that knows torch.distributed."""
