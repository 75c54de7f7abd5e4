"""`python -m toolhone`, which launchers such as `accelerate launch -m` need."""

import sys

from toolhone.cli import main

sys.exit(main())
