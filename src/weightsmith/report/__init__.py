"""What a person would publish: tables, a plot, a page."""
