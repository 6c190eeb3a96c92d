"""Print the tables of hostile inputs as they stand in the docs."""

from tests.drills.hostile import GROUPS
from tests.drills.hostile.case import table

print(table(GROUPS), end="")
