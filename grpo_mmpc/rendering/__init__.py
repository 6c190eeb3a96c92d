"""Turn image prompts into images."""
