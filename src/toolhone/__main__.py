"""Runs `python -m toolhone`. Launchers such as `accelerate launch -m` need it."""

import sys

from toolhone.cli import main

sys.exit(main())
