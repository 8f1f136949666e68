"""Methods that know, from a little text, what each model's weights are multiplied with."""
