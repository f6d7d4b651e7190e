"""Exports a trained network as a bundle for the MONAI model zoo: configs, code, models and a model card."""

from scripts.export.bundle import LARGE_FILES, export_bundle

__all__ = ["LARGE_FILES", "export_bundle"]
