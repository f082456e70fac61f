"""The command line: each verb parses, makes one library call, and prints a summary."""

from mrscale.cli import analysis, data, experiments
from mrscale.cli.base import app, main

__all__ = ["analysis", "app", "data", "experiments", "main"]
