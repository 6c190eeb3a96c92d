"""The door of the recommendation benchmark: what the rest of the package may use of it."""

import pytest

import grpo_mmpc.recbench as door
from tests.package.test_import_directions import MODULES, imports, room_of


@pytest.mark.parametrize("name", door._MODULES)
def test_every_name_of_the_door_leads_somewhere(name):
    assert getattr(door, name) is not None


def test_what_is_not_at_the_door_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'vbpr'"):
        _ = door.vbpr


def test_nobody_outside_imports_what_lies_behind_the_door():
    behind = {
        (module, imported)
        for module, path in MODULES.items()
        if room_of(module) != "recbench"
        for imported in imports(path, MODULES)
        if imported.startswith("grpo_mmpc.recbench.")
    }
    assert not behind
