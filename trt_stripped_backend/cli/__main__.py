"""``python -m trt_stripped_backend.cli`` is ``trt-stripped``."""

import sys

from . import main

sys.exit(main())
