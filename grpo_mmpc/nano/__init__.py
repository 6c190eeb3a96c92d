"""The embedded default: a procedural catalogue, nano policies of the real architectures, a nano CLIP."""
