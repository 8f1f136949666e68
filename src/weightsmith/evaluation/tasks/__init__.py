"""What a model is asked: questions, texts, suites of benchmarks."""
