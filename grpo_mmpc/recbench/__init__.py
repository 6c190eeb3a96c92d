"""The recommendation benchmark: what completed titles and images are worth to recommenders.

This file is its door: the rest of the package uses these names and imports no module behind it.
Each is loaded when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_mmpc.recbench.command import add_parser as add_parser
    from grpo_mmpc.recbench.masked_catalogue import write_masked_catalogue as write_masked_catalogue
    from grpo_mmpc.recbench.masks import Missingness as Missingness
    from grpo_mmpc.recbench.report.page import write_page as write_page
    from grpo_mmpc.recbench.report.views import recommendation_view as recommendation_view
    from grpo_mmpc.recbench.results import read_results as read_results
    from grpo_mmpc.recbench.results import results_of_run as results_of_run
    from grpo_mmpc.recbench.settings import check_section as check_section
    from grpo_mmpc.recbench.suite import benchmark_policy as benchmark_policy

_MODULES = {
    "add_parser": "command",
    "benchmark_policy": "suite",
    "check_section": "settings",
    "Missingness": "masks",
    "read_results": "results",
    "recommendation_view": "report.views",
    "results_of_run": "results",
    "write_masked_catalogue": "masked_catalogue",
    "write_page": "report.page",
}


def __getattr__(name: str) -> Any:
    """Load what is behind the door when it is asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
