"""``python -m tests.cluster.prepare``: makes whatever the test cluster needs and lacks."""

from __future__ import annotations

import sys

from tests.cluster import build, deep, image
from tests.cluster.build import CannotBuild, to_standard_error


def main() -> int:
    """Builds the programs and, where this machine can have a real node, its images."""
    try:
        build.ensure()
        if not deep.why_not():
            image.ensure()
    except CannotBuild as why:
        to_standard_error(f"error: {why}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
