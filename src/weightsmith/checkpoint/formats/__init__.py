"""Files of weights, a file for each format: headers are checked before any of their claims is used."""
