"""Labels of a prepared cohort: tissue, white matter, number of fibre orientations (NuFO) and the largest peak."""

from scripts.labels.label_cohort import label_cohort

__all__ = ["label_cohort"]
