"""Reports: one self-contained HTML page with pictures, and how numbers are written."""
