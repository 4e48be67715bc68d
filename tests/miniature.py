from bench.data.miniature import miniature_cohort, miniature_parts

__all__ = ["miniature_cohort", "miniature_parts"]
