"""Models and runs for other libraries and other runtimes."""
