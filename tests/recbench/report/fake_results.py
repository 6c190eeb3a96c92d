"""A small ``results.json`` of the recommendation benchmark, and changes of it."""

import copy


def method(value, *, difference=None, verdict="", recovery=None):
    return {
        "value": value,
        "ci95": [value - 0.01, value + 0.01],
        "by_seed": {"0": value},
        "by_category": {"A": {"value": value - 0.1, "ci95": None}, "B": {"value": value + 0.1, "ci95": None}},
        "same_as": None,
        "difference": difference,
        "difference_ci95": None if difference is None else [difference - 0.01, difference + 0.01],
        "p_holm": None if difference is None else 0.004,
        "verdict": verdict,
        "recovery": recovery,
        "recovery_ci95": None if recovery is None else [recovery - 0.2, recovery + 0.2],
    }


def results(**changes):
    methods = {
        "zeros": method(0.2),
        "no_missing": method(0.4, difference=0.2, verdict="better"),
        "completed:mine": method(0.3, difference=0.1, verdict="better", recovery=0.5),
        "id_only": method(0.1, difference=-0.1, verdict="worse"),
    }
    shared = {"reference": "zeros", "ceiling": "no_missing", "seeds": [0, 1], "categories": ["A", "B"], "users": 50}
    between = {"first_completion": "completed:mine", "against_first_completion": {}}
    metric = {**shared, "methods": methods, **between}
    group = {
        "recommender": "vbpr",
        "missing": "text",
        "rate": 1.0,
        "levels": {},
        "coverage": {
            "zeros": {"text": {"masked": 10, "covered": 0, "reasons": {"left as zeros": 10}}},
            "no_missing": {},
            "completed:mine": {"text": {"masked": 10, "covered": 8, "reasons": {"malformed completion": 2}}},
            "id_only": {},
        },
        "left_out": {},
        "dropped": {},
        "failures": {},
        "parameters": {},
        "devices": ["cpu"],
        "metrics": {"recall@20": metric, "ndcg@20": copy.deepcopy(metric)},
    }
    split = {"users": 25, "items": 40, "train": 300}
    found = {
        "suite": "recbench",
        "mode": "corrected",
        "catalogue": "folder",
        "command": "grpo-mmpc recbench",
        "finished": "2026-01-02T03:04:05+00:00",
        "categories": {"A": {"split": split}, "B": {"split": split}},
        "users": 45,
        "excluded_categories": {},
        "cells": 12,
        "failures": 0,
        "seconds": 61.0,
        "groups": [group],
    }
    return found | changes


def changed(change):
    """Results after a change of the only group and of its lead metric."""
    found = results()
    [group] = found["groups"]
    change(group, group["metrics"]["recall@20"])
    return found


def with_second(*, difference=0.02, verdict="better", **changes):
    """Results with a second completion, ``theirs``, compared with the first."""
    found = with_methods({"completed:theirs": method(0.3 + difference, difference=0.1 + difference, verdict="better")})
    compared = method(0.0, difference=difference, verdict=verdict)
    one = {name: compared[name] for name in ("difference", "difference_ci95", "p_holm", "verdict")} | changes
    for metric in found["groups"][0]["metrics"].values():
        metric["against_first_completion"] = {"completed:theirs": dict(one)}
    return found


def with_methods(added):
    """Results in which both metrics have more methods, which fill everything."""
    found = results()
    [group] = found["groups"]
    for name, method_ in added.items():
        group["coverage"][name] = {"text": {"masked": 10, "covered": 10, "reasons": {}}}
        for metric in group["metrics"].values():
            metric["methods"][name] = copy.deepcopy(method_)
    return found
