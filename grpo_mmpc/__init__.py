"""Align multimodal LLMs with GRPO so that they fill the gaps of product catalogues, and measure whether it worked."""

__version__ = "0.1.0"
