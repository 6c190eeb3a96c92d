"""Catalogues: folders of product records with images, read safely, checked, and split by item."""

from grpo_mmpc.catalogue.images import read_image
from grpo_mmpc.catalogue.quarantine import write_quarantine
from grpo_mmpc.catalogue.reader import Catalogue, load_catalogue
from grpo_mmpc.catalogue.splits import catalogue_groups, split_items
from grpo_mmpc.catalogue.validation import validate_catalogue

__all__ = [
    "Catalogue",
    "catalogue_groups",
    "load_catalogue",
    "read_image",
    "split_items",
    "validate_catalogue",
    "write_quarantine",
]
