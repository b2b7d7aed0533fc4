"""`python -m mmpt` and `deepspeed --module mmpt`."""

import sys

from mmpt.cli import main

if __name__ == "__main__":  # worker processes import this file too
    sys.exit(main())
