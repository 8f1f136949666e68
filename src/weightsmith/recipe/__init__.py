"""The YAML recipe and its parameters. No model is opened here."""
