"""Which rows make which batch: pure numpy, no processes and no files."""
