"""Timings and trainings that a person can repeat: ``python -m benchmarks [NAME ...]``. Run them on idle cores."""
