"""Which column of a table is what, by the names that programs give them."""

import json
from pathlib import Path

import pytest

from grpo_mmpc.catalogue.rows import RawRow
from grpo_mmpc.catalogue.sources.importing import import_tables
from grpo_mmpc.catalogue.sources.listing import choose_fields, table_listings, unread
from grpo_mmpc.catalogue.sources.opening import open_source
from grpo_mmpc.cli.data_import import _print_import
from grpo_mmpc.errors import CatalogueError

EXPORTS = {
    "Magento 2": (
        "sku,attribute_set_code,product_type,categories,name,description,base_image,small_image,additional_images",
        {"item_id": "sku", "title": "name", "category": "categories", "image": "base_image,additional_images"},
    ),
    "BigCommerce": (
        "Item Type,Product ID,Product Name,Brand Name,Category,Product Image ID - 1,Product Image File - 1,"
        "Product Image File - 2",
        {
            "item_id": "Product ID",
            "title": "Product Name",
            "image": "Product Image File - 1,Product Image File - 2",
            "attributes": "Brand Name",
        },
    ),
    "a feed to Google": (
        "g:id,g:title,g:image_link,g:additional_image_link,g:brand,g:color,g:item_group_id",
        {
            "item_id": "g:id",
            "title": "g:title",
            "image": "g:image_link,g:additional_image_link",
            "attributes": "g:brand,g:color",
            "parent_id": "g:item_group_id",
        },
    ),
    "Wix": (
        "handleId,fieldType,name,description,productImageUrl,sku",
        {"item_id": "handleId", "title": "name", "image": "productImageUrl"},
    ),
    "Squarespace": ("Title,Description,SKU,Hosted Image URLs", {"item_id": "SKU", "image": "Hosted Image URLs"}),
    "Etsy": ("TITLE,DESCRIPTION,IMAGE1,IMAGE2,SKU", {"title": "TITLE", "image": "IMAGE1,IMAGE2"}),
    "Amazon": (
        "item_sku,item_name,brand_name,main_image_url,other_image_url1,other_image_url2,parent_sku,size_name",
        {
            "item_id": "item_sku",
            "title": "item_name",
            "image": "main_image_url,other_image_url1,other_image_url2",
            "attributes": "brand_name,size_name",
            "parent_id": "parent_sku",
        },
    ),
    "a supplier": (
        "Article,Image 1 URL,Image 2 URL,Image alt",
        {"item_id": "Article", "image": "Image 1 URL,Image 2 URL"},
    ),
}


@pytest.mark.parametrize("program", EXPORTS)
def test_columns_are_recognised_by_the_names_that_programs_give_them(program):
    header, meant = EXPORTS[program]
    fields = choose_fields(header.split(","), {})
    assert {name: ",".join(fields[name]) for name in meant} == meant


def test_prestashop_says_in_a_name_what_stands_between_two_values():
    columns = ["Product ID", "Name *", "Categories (x,y,z...)", "Image URLs (x,y,z...)", "Image alt texts (x,y,z...)"]
    fields = choose_fields(columns, {})
    assert [fields[name] for name in ("item_id", "title", "category", "image")] == [[one] for one in columns[:4]]


def test_attributes_of_a_feed_have_the_names_of_any_table():
    columns = ["g:title", "g:brand", "color_name"]
    row = RawRow(row=1, values=dict(zip(columns, ("Mug", "Acme", "red"), strict=True)))
    (mug,) = table_listings([row], choose_fields(columns, {}))
    assert mug.attributes == {"brand": "Acme", "color": "red"}


def test_an_image_that_two_columns_name_is_one_image():
    columns = ["sku", "base_image", "additional_images"]
    row = RawRow(row=1, values=dict(zip(columns, ("1", "a.png", "a.png,b.png"), strict=True)))
    assert next(table_listings([row], choose_fields(columns, {}))).images == ["a.png", "b.png"]


def test_the_example_of_a_map_names_no_column_that_it_may_not_mean():
    with pytest.raises(CatalogueError, match=r"the columns are: Nr, Foto; .*--map title=COLUMN image=COLUMN$"):
        choose_fields(["Nr", "Foto"], {})


def test_rows_that_lack_what_no_column_is_read_as_say_so(tmp_path: Path, capsys):
    source = tmp_path / "list.csv"
    source.write_text("Nr,name,Foto\n1,Mug,a.png\n2,,b.png\n")
    tables = open_source(str(source))
    done = import_tables(tables, out=tmp_path / "out")
    (row,) = map(json.loads, (tmp_path / "out" / "skipped.jsonl").open())
    assert row["reason"].endswith("complete the other (no column is read as image)")
    _print_import(done, tables, category="products")
    assert (
        "No column is read as image; the columns are: Nr, name, Foto; name it: --map image=COLUMN"
        in capsys.readouterr().out
    )
    assert unread(["name", "image"], choose_fields(["name", "image"], {})) is None
