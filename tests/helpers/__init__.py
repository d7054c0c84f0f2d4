"""What tests share: samples, files, programs, and the roster of every public name."""
