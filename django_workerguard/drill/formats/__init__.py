"""The report of a drill as a table, as JUnit XML and as a page. Pure."""
