"""How the embedded models are built; not installed, run from a checkout by ``make nano``."""
