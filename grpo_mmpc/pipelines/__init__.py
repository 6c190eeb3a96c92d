"""The jobs of this toolkit from start to end: train, evaluate, complete."""
