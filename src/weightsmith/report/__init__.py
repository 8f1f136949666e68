"""What a person would publish: tables, plots, a page."""
