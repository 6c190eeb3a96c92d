"""The suite leaves the user's own file of encodings alone; tests of the disk cache name a file of theirs."""

import os

os.environ.setdefault("GRPO_MMPC_ENCODINGS_GB", "0")
