"""What every test shares. The suite's processes wait for their threads without spinning, since tests run beside servers,
and no platform that a test starts counts its requests, unless the test says so."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("LLM_PLATFORM_RATE_LIMIT_DEFAULT", "1000000")
os.environ.setdefault("LLM_PLATFORM_RATE_LIMIT_AUTHENTICATED", "1000000")
