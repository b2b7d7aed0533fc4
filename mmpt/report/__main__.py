"""`python -m mmpt.report RUN OUT.png`: pictures, what is shown of them and what is predicted, as one image."""

import sys
from pathlib import Path

from mmpt.errors import MmptError
from mmpt.report.reconstructions import reconstruction_figure

if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m mmpt.report RUN OUT.png")
    try:
        Path(sys.argv[2]).write_bytes(reconstruction_figure(Path(sys.argv[1])))
    except MmptError as error:
        sys.exit(f"mmpt: {error}")
