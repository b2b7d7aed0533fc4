"""Fits one after the other in one process a rank: a JSON list of recipe, folder and overrides."""

import json
import sys
from pathlib import Path

from mmpt.finetune.recipe import finetune

for recipe, out, overrides in json.loads(Path(sys.argv[-1]).read_text(encoding="utf-8")):
    finetune(recipe, *overrides, out=out)
