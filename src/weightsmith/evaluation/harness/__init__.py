"""lm-evaluation-harness's side: its tasks, its prompts, its metrics, our backends."""
