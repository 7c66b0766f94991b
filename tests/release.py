"""Where the authors' files that were handed to this project lie, if they are at hand."""

import os
from pathlib import Path

from pretrain_xai import paths

#: named by the environment, or beside the checkout
RELEASE = Path(os.environ.get("PRETRAIN_XAI_PUBLISHED", paths.REPOSITORY.parent / "shared" / "published"))
