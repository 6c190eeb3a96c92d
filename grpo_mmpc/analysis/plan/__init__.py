"""What a training will need, computed before anything of it loads."""
