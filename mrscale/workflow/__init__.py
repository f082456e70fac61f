"""Stages of a study: each composes engines and statistics, and leaves one artefact."""
