"""Raw input to named feature maps, shallow to deep."""
