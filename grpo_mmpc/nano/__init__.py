"""The embedded default: a procedural catalogue, policies of the real architectures, a CLIP."""
