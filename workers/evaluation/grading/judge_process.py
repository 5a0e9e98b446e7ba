"""The pool's end of one judge."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from time import monotonic
from typing import IO

from workers.evaluation.grading.judge import MEMORY_BYTES, OUT_OF_MEMORY
from workers.evaluation.grading.messages import (
    Assignment,
    Question,
    Reply,
    decode_reply,
    encode_assignment,
    encode_question,
)
