"""What the rows of a shop's export are, in any order, version or language of it."""

from collections.abc import Sequence

import pytest

from grpo_mmpc.catalogue.rows import RawRow
from grpo_mmpc.catalogue.sources.listing import Listing
from grpo_mmpc.catalogue.sources.shops import shop_of

SHOPIFY = ("Handle", "Title", "Body (HTML)", "Vendor", "Option1 Name", "Option1 Value", "Variant SKU", "Image Src")
WOO = ("ID", "Type", "SKU", "Name", "Categories", "Images", "Parent", "Attribute 1 name", "Attribute 1 value(s)")


def listed(columns: Sequence[str], *rows: Sequence[object]) -> list[Listing]:
    shop = shop_of(columns)
    assert shop is not None
    raw = [RawRow(row=n, values=dict(zip(columns, row, strict=True))) for n, row in enumerate(rows, start=1)]
    return list(shop.listings(columns, lambda: raw))


def test_the_row_of_a_shopify_product_is_the_one_with_its_title_wherever_it_stands():
    small, large = (
        ("mug", "Mug", "Holds tea.", "Acme", "Size", "S", "M-S", "s.png"),
        ("mug", *[None] * 4, "L", "M-L", None),
    )
    other = ("pan", None, None, "Bolt", "Title", "Default Title", "P", "p.png")
    expected = {
        "mug": ("Mug", "Holds tea.", {"brand": "Acme"}),
        "mug:M-L": ("Mug", "Holds tea.", {"brand": "Acme", "size": "L"}),
        "pan": (None, None, {"brand": "Bolt"}),
    }
    for rows in ((small, large, other), (large, small, other), (small, other, large), (other, large, small)):
        items = {one.item_id: (one.title, one.description, one.attributes) for one in listed(SHOPIFY, *rows)}
        assert items == expected
        product = next(one for one in listed(SHOPIFY, *rows) if one.item_id == "mug")
        assert rows[product.row - 1] == small


def test_an_untitled_shopify_product_stands_in_the_row_that_has_most_of_it():
    rows = [
        ("jug", None, None, None, None, "L", "J-L", None),
        ("jug", None, "<p>x</p>", "Acme", "Size", "S", "J-S", "j.png"),
    ]
    product, variant = listed(SHOPIFY, *rows)
    assert (product.row, product.images, variant.row) == (2, ["j.png"], 1)
    assert "which has no title yet" in variant.problem


def test_what_a_shopify_product_has_in_several_rows_is_brought_together():
    rows = [("jug", "Jug", None, None, *[None] * 4), ("jug", None, "Holds water.", "Acme", *[None] * 4)]
    (product,) = listed(SHOPIFY, *rows)
    assert (product.row, product.title, product.description) == (1, "Jug", "Holds water.")
    assert product.attributes == {"brand": "Acme"}
    assert not product.state(product.values, "brand", "Bolt")  # it has one, though not in this row


def test_numbers_of_a_workbook_are_handles_options_and_skus_of_shopify():
    rows = [(501, "Jeans", None, "Levi", "Size", 32, None, None), (501, *[None] * 4, 0, 1002.0, None)]
    product, variant = listed(SHOPIFY, *rows)
    assert (product.item_id, variant.item_id, variant.parent_id) == ("501", "501:1002", "501")
    assert variant.attributes == {"brand": "Levi", "size": 0}


def test_later_exports_of_shopify_name_their_columns_in_another_way():
    columns = (
        "Title",
        "URL handle",
        "Description",
        "Vendor",
        "Product category",
        "SKU",
        "Option1 name",
        "Option1 value",
    )
    columns += ("Product image URL", "Image position", "Variant image URL", "Price")
    product, variant = listed(
        columns,
        ("Mug", "mug", "<p>x</p>", "Acme", "Home > Mugs", "M-S", "Size", "S", "b.png", "2", None, "5"),
        (None, "mug", None, None, None, "M-L", None, "L", None, None, "l.png", "6"),
        (None, "mug", None, None, None, None, None, None, "a.png", "1", None, None),
    )
    assert (product.item_id, product.title, product.category) == ("mug", "Mug", "Home > Mugs")
    assert product.images == ["a.png", "b.png"]
    assert (variant.item_id, variant.images) == ("mug:M-L", ["l.png"])
    assert variant.attributes == {"brand": "Acme", "size": "L"}
    assert product.cells == {"title": "Title", "image": "Product image URL", "description": "Description"}
    assert product.further == {"Product category": "Home > Mugs", "Price": "5"}


def test_a_virtual_variation_of_woocommerce_is_a_variation():
    course, virtual = listed(
        WOO,
        ("10", "variable, virtual", "T", "Tea Course", "Courses", "a.png", None, "Level", "Basic, Advanced"),
        ("11", "variation, downloadable, virtual", "T-1", None, None, None, "T", "Level", "Basic"),
    )
    assert (course.parent_id, virtual.parent_id) == ("10", "10")
    assert (virtual.category, virtual.images, virtual.attributes) == ("Courses", ["a.png"], {"level": "Basic"})


def test_a_backslash_before_a_comma_keeps_a_value_of_woocommerce_whole():
    (one,) = listed(
        WOO,
        (
            "1",
            "simple",
            "W",
            "'-10 °C Cooler",
            r"Bottles\, Cups > Steel, Sale",
            r"a\,1.png",
            None,
            "Volume",
            r"1\,5 l, 2 l",
        ),
    )
    assert (one.category, one.images) == ("Bottles, Cups > Steel", ["a,1.png"])
    assert one.attributes == {"volume": "1,5 l, 2 l"}
    assert one.title == "-10 °C Cooler"  # the apostrophe was for spreadsheets


def test_numbers_of_a_workbook_are_parents_and_names_of_attributes_of_woocommerce():
    product, variation = listed(
        WOO,
        (20, "variable", 1000.0, "Tea", "Food", "a.png", None, 2024, "x"),
        (21, "variation", 1001, None, None, None, 1000, "Size", 0),
    )
    assert variation.parent_id == "20" and variation.images == ["a.png"]
    assert (product.attributes, variation.attributes) == ({"2024": "x"}, {"2024": "x", "size": 0})


LANGUAGES = {
    "German": "ID,Typ,Artikelnummer,Name,Beschreibung,Kategorien,Bilder,Übergeordnetes Produkt,Attribut 1 Name,"
    "Attribut 1 Wert(e)",
    "French": "ID,Type,UGS,Nom,Description,Catégories,Images,Parent,Nom de l\u2019attribut 1,"
    "Valeur(s) de l\u2019attribut 1",
    "Spanish": "ID,Tipo,SKU,Nombre,Descripción,Categorías,Imágenes,Superior,Nombre del atributo 1,"
    "Valor(es) del atributo 1",
    "Italian": "ID,Tipo,COD,Nome,Descrizione,Categorie,Immagine,Genitore,Attributo 1 nome,Attributo 1 valuta(e)",
    "Dutch": "ID,Type,SKU,Naam,Beschrijving,Categorieën,Afbeeldingen,Hoofd,Attribuut 1 naam,Attribuut 1 waarde(n)",
    "Portuguese": "ID,Tipo,SKU,Nome,Descrição,Categorias,Imagens,Ascendente,Nome do atributo 1,Valores do atributo 1",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_export_of_woocommerce_is_read_in_the_language_of_its_shop(language):
    columns = LANGUAGES[language].split(",")
    tea, bag = listed(
        columns,
        ("20", "variable", "T", "Tea", "Green.", "Food", "a.png", None, "Size", "1, 2"),
        ("21", "variation", "T-1", None, None, None, None, "id:20", "Brand", None),
    )
    assert (tea.title, tea.description, tea.category, tea.images) == ("Tea", "Green.", "Food", ["a.png"])
    assert (bag.parent_id, bag.images, bag.attributes) == ("20", ["a.png"], {"size": "1, 2"})
    assert bag.cells == {"title": columns[3], "image": columns[6], "description": columns[4]}
    assert bag.state(bag.values, "brand", "Acme") == {columns[9]: "Acme"}
    assert tea.further == {columns[1]: "variable", columns[2]: "T"}


def test_a_table_that_is_no_export_of_a_shop_is_none():
    assert shop_of(["id", "type", "sku", "name", "images"]) is None
    assert shop_of(["Title", "Description", "SKU", "Image"]) is None
