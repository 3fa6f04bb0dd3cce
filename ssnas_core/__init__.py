"""Self-supervised neural architecture search for multimodal networks.

Names are imported when first used, so that `import ssnas_core` stays cheap; the stub
beside this file says from where.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
