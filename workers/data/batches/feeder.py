"""An optimizer step's examples as micro-batches, made ahead of the training."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain

import numpy as np
import torch

from hpo.spec.training.config import TrainingConfig
from workers.data.batches.collate import Batch, collate, collate_packed
from workers.data.batches.packing import pack
from workers.data.batches.splitting import PASS_TOKENS, split_rows
from workers.data.tokens.encoded import EncodedExample, lengths_of

Rows = Sequence[Sequence[int]]


class Feeder:
    """Makes batches as a config asks for: padded or packed, here or in threads."""

    def __init__(self, config: TrainingConfig, *, pad_id: int, device: torch.device) -> None:
        compute = config.compute
        self._packing = config.packing
        self._capacity = config.max_length
        self._width = config.max_length if config.padding == "max-length" else None
        self._one_row = config.packing and compute.attention == "flash_attention_2"
        self._workers = compute.loader_workers
        self._pinned = compute.pin_memory
        self._pad_id = pad_id
        self._device = device

    def rows(self, examples: Sequence[EncodedExample]) -> list[list[int]]:
        """A step's rows, which hold indices of examples: one each, or packed.

        Long rows come first: neighbours need little padding, and what does not
        fit into memory shows at once.
        """
        lengths = lengths_of(examples)
        if not self._packing:
            return [[index] for index in np.argsort(-lengths, kind="stable").tolist()]
        rows = pack(lengths, self._capacity)
        return sorted(rows, key=lambda row: -int(lengths[row].sum()))

    def batches(
        self, examples: Sequence[EncodedExample], rows: Rows, micro_batch: int
    ) -> Iterator[Batch]:
        """The rows in batches of `micro_batch` rows at most.

        Fewer where rows of uneven lengths are cheaper in several passes.
        With loader workers, as many batches as there are workers are made
        ahead. What one raises is raised here in its turn. The threads end with
        the iterator, also where it is closed or let go half-way.
        """
        parts = [rows[start:end] for start, end in self._ranges(examples, rows, micro_batch)]
        makers = [partial(self._batch, examples, part) for part in parts]
        workers = min(self._workers, len(parts) - 1)
        return _ahead(makers, workers) if workers > 0 else (make() for make in makers)

    def _ranges(
        self, examples: Sequence[EncodedExample], rows: Rows, micro_batch: int
    ) -> list[tuple[int, int]]:
        lengths = lengths_of(examples)
        whole = np.array([lengths[list(row)].sum() for row in rows], np.int64)
        if self._width is not None or self._one_row:
            # Nothing is saved by parting rows that are as long, or are laid end to end.
            whole[:] = self._capacity
        return split_rows(whole, micro_batch, PASS_TOKENS.get(self._device.type, 256))

    def _batch(self, examples: Sequence[EncodedExample], rows: Rows) -> Batch:
        if self._packing:
            return self._packed(examples, rows)
        members = [index for row in rows for index in row]
        return collate(
            [examples[index] for index in members],
            members=members,
            pad_id=self._pad_id,
            device=self._device,
            width=self._width,
            pinned=self._pinned,
        )

    def _packed(self, examples: Sequence[EncodedExample], rows: Rows) -> Batch:
        width = self._width
        if self._one_row:
            # Flash attention tells documents apart in a batch of one row alone,
            # and attends no further than a document, so that one row costs no more.
            width = None if width is None else width * len(rows)
            rows = [list(chain.from_iterable(rows))]
        return collate_packed(
            examples,
            rows,
            pad_id=self._pad_id,
            device=self._device,
            width=width,
            pinned=self._pinned,
        )


def _ahead(makers: Sequence[Callable[[], Batch]], workers: int) -> Iterator[Batch]:
    """What the makers make, in their order, `workers` of them ahead of the taker."""
    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="loader") as threads:
        try:
            for make in makers:
                waiting.append(threads.submit(make))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
