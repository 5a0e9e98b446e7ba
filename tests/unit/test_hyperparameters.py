"""The table of docs/hyperparameters.md says what the specification says."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpo.spec.load import parse_study
from hpo.spec.space import SearchSpace
from hpo.spec.study import StudySpec
from hpo.spec.training.config import TrainingConfig

ROOT = Path(__file__).parents[2]
FIXED = {"model": ["dtype"], "evaluation": None, "tracking": ["log_every"], "checkpoints": None}
"""Fields outside of the training section that belong to training; None for all."""
APART = {
    "max_num_seqs",
    "kv_cache_mib",
    "gpu_memory_fraction",
    "memory",
    "sharing",
    "adapters_together",
    "order",
    "length_buckets",
    "grading_processes",
    "grading_seconds",
    "answers_kib",
}
"""Fields of the evaluation that change only how it is done, or told."""
BESIDE: dict[str, dict[str, Any]] = {
    "training.method.": {"method": {"type": "lora"}},
    "training.method.type": {},
    "training.optimizer.momentum": {"optimizer": {"type": "muon"}},
    "training.optimizer.nesterov": {"optimizer": {"type": "muon"}},
    "training.optimizer.newton_schulz_steps": {"optimizer": {"type": "muon"}},
    "training.optimizer.adjustment": {"optimizer": {"type": "muon"}},
    "training.schedule.cycles": {"schedule": {"type": "cosine-restarts"}},
    "training.schedule.decay_ratio": {"schedule": {"type": "wsd"}},
    "training.regularisation.gradient_noise.decay": {
        "regularisation": {"gradient_noise": {"scale": 0.01}}
    },
    "training.ablation": {"regularisation": {"rdrop": {"alpha": 0.1}}},
    "training.from_epoch.quality_weighting": {"quality_weighting": True},
    "training.from_epoch.label_smoothing": {"regularisation": {"label_smoothing": 0.1}},
    "training.from_epoch.rdrop": {"regularisation": {"rdrop": {"alpha": 0.1}}},
    "training.from_epoch.ema": {"regularisation": {"ema": {}}},
    "training.from_epoch.gradient_noise": {"regularisation": {"gradient_noise": {"scale": 0.01}}},
    "training.from_epoch.neftune": {"regularisation": {"neftune": {"alpha": 5}}},
    "training.from_epoch.code_loss": {"regularisation": {"code_loss": {"weight": 0.1}}},
}
"""What must stand beside a field for it to mean something, by the longest beginning."""

REFERENCE = runpy.run_path(str(ROOT / "scripts" / "study-reference"), run_name="reference")


def rows() -> dict[str, list[str]]:
    """Cells of the table's rows, by field."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "docs" / "hyperparameters.md").read_text().splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            assert cells[0] not in found, f"{cells[0]} stands there twice"
            found[cells[0].strip("`")] = cells[1:]
    return found


def leaves(schema: Any, definitions: Any, path: str) -> Iterator[tuple[str, str, str]]:
    """Path, type and default of every field that holds a value, as the reference words them."""
    for name, field in schema["properties"].items():
        inner = f"{path}.{name}"
        variants = REFERENCE["references"](field)
        for variant in variants:
            yield from leaves(definitions[variant], definitions, inner)
        if not variants:
            required = name in schema.get("required", [])
            yield inner, REFERENCE["kind"](field), REFERENCE["default"](field, required)


def specified() -> dict[str, set[tuple[str, str]]]:
    """Types and defaults of every field that the table must hold."""
    found: dict[str, set[tuple[str, str]]] = {}
    schema, whole = TrainingConfig.model_json_schema(), StudySpec.model_json_schema()
    fields = list(leaves(schema, schema["$defs"], "training"))
    for section, names in FIXED.items():
        held = whole["$defs"][REFERENCE["references"](whole["properties"][section])[0]]
        for field in leaves(held, whole["$defs"], section):
            name = field[0].split(".")[1]
            if name not in APART and (names is None or name in names):
                fields.append(field)
    for path, kind, default in fields:
        found.setdefault(path, set()).add((kind, default))
    return found


def beside(path: str) -> dict[str, Any]:
    longest = max((known for known in BESIDE if path.startswith(known)), key=len, default="")
    return BESIDE.get(longest, {})


def training_with(path: str, value: Any) -> dict[str, Any]:
    """A training section with a value at a path, and what it needs beside it."""
    tree: dict[str, Any] = {"effective_batch_size": 8, "max_batches": 10, "optimizer": {}}
    for key, held in beside(path).items():
        tree[key] = {**tree.get(key, {}), **held} if isinstance(held, dict) else held
    tree["optimizer"].setdefault("learning_rate", 1e-4)
    *sections, last = path.split(".")[1:]
    place = tree
    for section in sections:
        place[section] = dict(place.get(section) or {})
        place = place[section]
    place[last] = value
    return tree


def test_the_table_holds_every_field_and_no_other() -> None:
    assert sorted(rows()) == sorted(specified())


@pytest.mark.parametrize("path", sorted(specified()))
def test_a_row_says_what_the_specification_says(path: str) -> None:
    kind, _, default, used, source = rows()[path]
    variants = specified()[path]
    if path.endswith(".type") and len(variants) > 1:
        assert set(kind.split(", ")) == {
            name for words, _ in variants for name in words.split(", ")
        }
        config = TrainingConfig.model_validate(training_with("training.seed", 0))
        assert default == f"`{getattr(config, path.split('.')[1]).type}`"
    else:
        assert {(kind, default)} == variants
    assert used
    assert source


@pytest.mark.parametrize("path", [path for path in sorted(rows()) if path.startswith("training.")])
def test_a_range_that_makes_sense_can_be_searched(path: str) -> None:
    searched = rows()[path][1]
    if searched == "fixed":
        assert path == "training.compute.micro_batch"
        return
    node = yaml.safe_load(searched.strip("`"))
    space, problems = SearchSpace.parse(training_with(path, node))
    assert not problems
    assert space is not None
    assert [parameter.path for parameter in space.parameters()] == [path.removeprefix("training.")]


def test_what_is_fixed_cannot_be_searched() -> None:
    fixed = [path for path, cells in rows().items() if cells[1] == "fixed"]
    assert len(fixed) > 10
    text = yaml.safe_dump(
        {
            "name": "s",
            "objective": {"metric": "loss", "direction": "minimize"},
            "model": {"path": "base"},
            "data": {"train": {"path": "a.jsonl"}, "loss": {"path": "b.jsonl"}},
            "training": training_with("training.seed", 0),
            "evaluation": {"every": {"batches": {"low": 1, "high": 5}}},
            "budget": {"trials": 1},
        }
    )
    with pytest.raises(Exception, match=r"evaluation\.every\.batches"):
        parse_study(text, "s.yaml", {})
