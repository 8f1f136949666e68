"""A whole run from one YAML file."""
