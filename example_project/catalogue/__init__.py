"""A small lending library: shelves, authors, books and loans."""
