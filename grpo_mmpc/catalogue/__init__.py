"""Catalogues: folders of product records with images, read safely, checked, and split by item."""

from grpo_mmpc.catalogue.images import MAX_IMAGE_PIXELS, read_image
from grpo_mmpc.catalogue.quarantine import read_quarantine, write_quarantine
from grpo_mmpc.catalogue.reader import Catalogue, load_catalogue, to_record
from grpo_mmpc.catalogue.sources.amazon import AmazonSource, convert_amazon_metadata
from grpo_mmpc.catalogue.sources.amazon_files import open_sources
from grpo_mmpc.catalogue.splits import Split, split_items
from grpo_mmpc.catalogue.validation import ValidationReport, validate_catalogue

__all__ = [
    "MAX_IMAGE_PIXELS",
    "AmazonSource",
    "Catalogue",
    "Split",
    "ValidationReport",
    "convert_amazon_metadata",
    "load_catalogue",
    "open_sources",
    "read_image",
    "read_quarantine",
    "split_items",
    "to_record",
    "validate_catalogue",
    "write_quarantine",
]
