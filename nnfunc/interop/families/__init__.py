"""The model families whose published weights are known: one file for those with the same names."""
