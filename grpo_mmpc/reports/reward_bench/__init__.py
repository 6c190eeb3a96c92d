"""The preview of rewards as a page and as files."""
