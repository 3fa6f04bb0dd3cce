"""Features of samples in several views: stored once, or inputs augmented on the fly."""

from __future__ import annotations

from ssnas_core.features.extract import Taps, extract_features, store_key
from ssnas_core.features.live import LiveFeatures, LiveInputs
from ssnas_core.features.store import FeatureStore
from ssnas_core.inputs import RawInputs, decode_images, prepare_inputs

__all__ = [
    "FeatureStore",
    "LiveFeatures",
    "LiveInputs",
    "RawInputs",
    "Taps",
    "decode_images",
    "extract_features",
    "prepare_inputs",
    "store_key",
]
