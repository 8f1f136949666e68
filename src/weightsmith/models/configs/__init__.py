"""config.json: held against tensors, against another model's, against the class that it names."""
