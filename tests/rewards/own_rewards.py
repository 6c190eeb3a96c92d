"""A user's reward file, as the tests load it."""


def brand_match(*, brand: str = "Acme", strict: bool = False):
    """1 if the brand is in the prediction."""
    if not brand:
        raise ValueError("brand must not be empty")

    def score(*, predictions, **columns):
        return [float(brand in p if strict else brand.lower() in p.lower()) for p in predictions]

    return score
