"""Questions, graders and intervals: what measures a pair, and what the trainer rewards by."""
