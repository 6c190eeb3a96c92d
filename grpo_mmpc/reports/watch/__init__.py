"""A live view of run folders, from their files alone: in the terminal, or as a local page."""
