"""How long a test waits for what comes sooner or later.

No law: on an idle machine nothing takes a hundredth of it, and a crowded one, where
twenty others want its two cores, must not fail for being slow.
"""

PATIENCE = 900  # seconds
