"""The result files that the authors released (GitHub `Marta54/Pretrain_XAI_gt`, MIT), read, compared and drawn."""

from pretrain_xai.published.read import Release, read_release

__all__ = ["Release", "read_release"]
