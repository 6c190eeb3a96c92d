"""Everything that knows a model family: loading, image tokens, adapters, identity."""
