"""Settings of all tests."""

import os

from hypothesis import settings

# The same examples each time where a failure would stop others; new ones wherever somebody looks at them.
settings.register_profile("repeatable", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("repeatable")
