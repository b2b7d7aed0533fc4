"""Pretrained backbones as models of other libraries: the maps of weights that `mmpt.foreign` reads by, the other way.

`to_...` builds the other library's model, which tests hold to 1e-5. What has no counterpart is refused.
"""
