"""The prompt texts of the two tasks of MMPCBench: one text for every model family."""

IMAGE_TO_TEXT = (
    "Write the title that a seller would give this product on Amazon. Use English only. Name the brand, the product "
    "type and every visible attribute such as colour, material, size and pack count. Answer with one JSON object and "
    'nothing else, for example {"title": "Acme Cotton Tote Bag, Striped Blue, Large, Pack of 2"}.'
)
"""Shown together with the product image."""

TEXT_TO_IMAGE = (
    "Write a prompt for a text-to-image model that draws the product with this title as a catalogue photo. Use English "
    "only and at most 77 tokens. Keep the product type and every attribute of the title. Answer with one JSON object "
    'and nothing else, for example {"prompt": "catalogue photo of a large blue striped cotton tote bag, pack of 2"}. '
    "The title:"
)
"""The title follows on a line of its own."""
