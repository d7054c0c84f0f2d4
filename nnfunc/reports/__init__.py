"""Reports as self-contained HTML pages, and the formats of numbers in them."""
