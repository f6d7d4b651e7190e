"""Phantom cohorts: raw scans of simulated brains with known tissue and fibres."""

from scripts.phantom.write import write_phantom

__all__ = ["write_phantom"]
