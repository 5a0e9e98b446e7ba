"""The plain way: vLLM built for each evaluation and unloaded, then transformers' weights reloaded.

`python -m benchmarks.evaluation.anew FOLDER RESULT`, with a scene in FOLDER.
As the search that published its expected savings of model reuse did it: the
transformers model is loaded once. It is given every advantage beyond: vLLM is
built in this process (in one of its own it imports everything again), prompts
and examples are tokenised once, checkpoints are not verified, the loss is
computed by our code, the grading processes are kept, and there is no database.
"""

from __future__ import annotations

import argparse
import gc
import os
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from benchmarks.evaluation.parts import Evaluated, Parts
from benchmarks.evaluation.scenes import CPU, checkpoints_folder, read_sets, read_spec
from hpo.search.study import searched_ranks
from hpo.spec.study import StudySpec
from workers.data.batches.loss import LossResult, evaluation_loss
from workers.data.tokens.tokenizer import load_tokenizer, pad_id
from workers.evaluation.engines.environment import prepare_environment
from workers.evaluation.engines.options import evaluation_options
from workers.evaluation.grading.pool import GradingPool
from workers.evaluation.sets import EvaluationSets
