"""The report: HTML, Markdown and CSV, all from the record alone."""
