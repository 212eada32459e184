"""What every test shares. The suite's processes wait for their threads without spinning, since tests run beside servers."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
