"""The command line: one module a command, on cliff."""

from __future__ import annotations

import gc

# Imports make tens of thousands of objects that stay; looking through them again and
# again for cyclic garbage took a tenth of a command's time.
gc.set_threshold(50_000)
