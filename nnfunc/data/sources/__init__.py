"""Where data comes from: one module a format or data set."""
