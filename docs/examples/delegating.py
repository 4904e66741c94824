"""Leave the work to another strategy, with options that nobody can change."""

from allocpolicy import Delegate, DiskFormat, ReadOnly, delegate
from allocpolicy.testing import facts_on, request

space: Delegate = delegate("space", ReadOnly({"reserve": "zero-fill"}))
plan = space.plan(request=request(DiskFormat.RAW), facts=facts_on("ext4"))
assert plan.written
assert space.options == {"reserve": "zero-fill"}
