"""Everything that knows a model family: loading, processors, adapters, image attention."""
