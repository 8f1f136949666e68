"""What commands share in a terminal: options, progress, tables."""
