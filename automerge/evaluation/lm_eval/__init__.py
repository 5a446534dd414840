"""lm-eval's tasks, requests, metrics and judgement."""
