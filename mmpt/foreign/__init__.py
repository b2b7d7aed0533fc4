"""Models of other libraries as backbones of one stream: one file a model type, named as its config.json names it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmpt.encoders import Facts
from mmpt.foreign.entries import Entry


class Family(ABC):
    """One model type: what its config.json means here, and which of its weights is which of a backbone's.

    Built with the settings that `needs` names, which stand in config.json or are the library's defaults.
    """

    kind: ClassVar[str]  # for people
    modality: ClassVar[str]  # `type` of the stream in a recipe, and its name
    needs: ClassVar[Mapping[str, Any]]  # settings that are read, with the defaults of the library
    only: ClassVar[Mapping[str, Any]]  # settings that a backbone has in one way alone, which is the library's default
    inside: ClassVar[tuple[str, ...]]  # what stands before the encoder's names where the model has more than an encoder
    left: ClassVar[tuple[str, ...]]  # beginnings of names inside the encoder that its latents don't depend on

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings

    @abstractmethod
    def facts(self, folder: Path) -> tuple[Facts, Sequence[str]]:
        """What a data set would say of the stream, from the folder's other files, and notices of what was assumed."""

    @abstractmethod
    def stream(self, facts: Facts) -> dict[str, Any]:
        """Settings of the modality."""

    @abstractmethod
    def trunk(self) -> dict[str, Any]:
        """Settings of the transformer trunk."""

    @abstractmethod
    def entries(self, facts: Facts) -> list[Entry]:
        """Every weight of a backbone that the model has, names without what stands before them."""

    @abstractmethod
    def objective_entries(self, facts: Facts) -> list[Entry]:
        """Weights of a head and of what stands for hidden tokens, which such a model may have; their whole names."""
