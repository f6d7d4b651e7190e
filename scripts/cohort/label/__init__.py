"""Labels of a prepared cohort: tissue, white matter, number of fibre peaks and the largest peak."""

from scripts.cohort.label.cohort import label_cohort

__all__ = ["label_cohort"]
