"""One stream or several on one trunk as an ONNX graph, with any number of rows and tokens."""

import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor, nn

from mmpt.build import save_facts
from mmpt.encoders import Modality
from mmpt.errors import ConfigError
from mmpt.export.flat import FIXED, batch_of, input_names, latents_name
from mmpt.export.samples import Latents, example_inputs
from mmpt.export.traceable import traceable
from mmpt.model import Backbone

FILE = "model.onnx"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
USE = "onnxruntime.InferenceSession('{folder}/model.onnx').run(None, inputs)  # a dict of arrays by name, see below"


class Graph(nn.Module):
    """What is traced: tensors by name -> latents by stream."""

    def __init__(self, backbone: Backbone, modalities: Mapping[str, Modality]) -> None:
        super().__init__()
        self.backbone, self.modalities = traceable(backbone), modalities

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Latents in the order of the streams."""
        return tuple(tokens.x for tokens in self.backbone(batch_of(inputs, self.modalities)).values())


def to_onnx(backbone: Backbone, modalities: Mapping[str, Modality], folder: Path) -> Latents:
    """Write graph, facts and tokenizers; returns what onnxruntime makes of the file.

    Raises:
        ConfigError: onnx is not installed, or a part that can't be traced, which is named.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(f"--to onnx needs {', '.join(missing)}; pip install 'mmpt[onnx]'")
    example = example_inputs(modalities)[0]
    program = _traced(Graph(backbone, modalities).eval(), example, modalities)
    program.save(folder / FILE)  # past 2 GB weights go to a file beside it
    save_facts(folder, {name: modality.facts for name, modality in modalities.items()})
    return _run_by_onnxruntime(folder / FILE, list(modalities))


def _traced(graph: Graph, example: dict[str, Tensor], modalities: Mapping[str, Modality]) -> Any:
    """Free in rows and tokens, named; raises ConfigError."""
    names = {
        name: ("rows",) if isinstance(modality, FIXED) else ("rows", f"{stream}_tokens")
        for stream, modality in modalities.items()
        for name in input_names(stream, modality)
    }
    free = {name: dict.fromkeys(range(len(own)), torch.export.Dim.DYNAMIC) for name, own in names.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own parts, about one another
        try:
            traced = torch.export.export(graph, (example,), dynamic_shapes={"inputs": free}, strict=False)
            outputs = [latents_name(stream) for stream in modalities]
            program = torch.onnx.export(traced, input_names=list(example), output_names=outputs, verbose=False)
        except Exception as error:  # whatever a part of anyone's raises when it meets sizes that are not numbers
            said = str(error).strip().partition("\n")[0]
            raise ConfigError(f"--to onnx: {_culprit(error)} can't be traced ({said}); use safetensors") from error
    assert program is not None
    shapes: dict[Any, Any] = {value.name: value.shape for value in program.model.graph.inputs}
    axes = {shapes[name][axis]: own for name, both in names.items() for axis, own in enumerate(both)}
    program.rename_axes(axes)
    return program


def _culprit(error: BaseException) -> str:
    """The innermost part that was being traced, or what it was being translated from."""
    found = [
        type(part).__name__
        for frame, _ in walk_tb(error.__traceback__)
        if isinstance(part := frame.f_locals.get("self"), nn.Module) and not type(part).__module__.startswith("torch.")
    ]
    return found[-1] if found else "this model"


def _run_by_onnxruntime(file: Path, streams: list[str]) -> Latents:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def latents(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        made: Any = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        return {stream: torch.from_numpy(own) for stream, own in zip(streams, made, strict=True)}

    return latents
