"""`python -m workers.generation`: the process that `hpo data generate` starts.

The specification comes in as JSON. A signal ends this process at once, which
is safe at any moment: the output folder only grows, and is mended when it is
opened again.
"""

from __future__ import annotations

import argparse
import sys

from hpo.parent import stop_with_parent
from hpo.spec.errors import HpoError
from hpo.spec.generate import GenerateSpec
from workers.generation.report import report_lines
from workers.generation.run import generate

USER_ERROR = 2
NOTHING_WRITTEN = 3
"""Exit codes, as hpo.launch.generation knows them."""


def main() -> int:
    """Generate; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", required=True)
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args()
    stop_with_parent(options.parent)
    spec = GenerateSpec.model_validate_json(sys.stdin.buffer.read())
    try:
        report = generate(spec, options.device, _note)
    except HpoError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return USER_ERROR
    for line in report_lines(report):
        _note(line)
    _note(f"written: {spec.output}")
    return 0 if report["responses"] else NOTHING_WRITTEN


def _note(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
