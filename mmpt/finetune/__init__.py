"""Fine-tuning: a pretrained encoder, a task, labelled samples.

    task = mmpt.finetune.Classifier(mmpt.load("runs/five"), label="diagnosis", inputs=["labs", "text"])
    result = task.fit("shards/labs", strategy="full")

The names below are the public ones.
"""

from mmpt.finetune.adapter import load_adapter, save_adapter
from mmpt.finetune.repeats import Repeats, repeat
from mmpt.finetune.result import FitResult
from mmpt.finetune.saved import load
from mmpt.finetune.settings import FitSettings
from mmpt.finetune.splits import Split, split
from mmpt.finetune.tasks.classifier import Classifier
from mmpt.finetune.tasks.ctc import CTC
from mmpt.finetune.tasks.multi_label import MultiLabel
from mmpt.finetune.tasks.regressor import Regressor
from mmpt.finetune.tasks.retrieval import Retrieval
from mmpt.finetune.tasks.segmenter import Segmenter
from mmpt.finetune.tasks.token_tagger import TokenTagger

__all__ = [
    "CTC",
    "Classifier",
    "FitResult",
    "FitSettings",
    "MultiLabel",
    "Regressor",
    "Repeats",
    "Retrieval",
    "Segmenter",
    "Split",
    "TokenTagger",
    "load",
    "load_adapter",
    "repeat",
    "save_adapter",
    "split",
]
