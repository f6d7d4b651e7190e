"""Phantom cohorts: raw scans of made-up brains whose tissue and fibres are known."""

from scripts.cohort.phantom.write import write_phantom

__all__ = ["write_phantom"]
