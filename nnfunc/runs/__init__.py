"""What is on disk of a run: its folder, log and state. It knows no model and no config."""
