"""Where the authors' release lies, if it is at hand."""

import os
from pathlib import Path

from pretrain_xai import paths

#: named by the environment, cloned as the README says, or beside the checkout
_PLACES = [
    *([Path(os.environ["PRETRAIN_XAI_PUBLISHED"])] if "PRETRAIN_XAI_PUBLISHED" in os.environ else []),
    paths.REPOSITORY / "data" / "published",
    paths.REPOSITORY.parent / "shared" / "published",
]
RELEASE = next((place for place in _PLACES if place.is_dir()), _PLACES[0])
