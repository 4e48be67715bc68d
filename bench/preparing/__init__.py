"""Raw MIMIC-layout files to a cohort."""
