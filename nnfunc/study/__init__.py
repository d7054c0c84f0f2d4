"""The report of a sweep: what was best and how sure that is, which settings mattered, what failed."""
