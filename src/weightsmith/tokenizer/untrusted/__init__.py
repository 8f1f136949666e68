"""What a model's author wrote and this program runs, chat templates and the rules of a tokenizer: under limits."""
