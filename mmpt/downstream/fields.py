"""Do a data set's fields mean what they meant in training?"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmpt.data.manifest import Manifest
from mmpt.encoders import Modality
from mmpt.errors import DataError


def check_fields(
    who: Path | str, modalities: Mapping[str, Modality], manifest: Manifest, streams: Sequence[str]
) -> None:
    """Raises DataError for a stream that the run or the data set lacks, or that another kind of field feeds.

    Args:
        who: the run, for messages.
        modalities: of the run.
        manifest: of the data set.
        streams: that are to be read.
    """
    for name in streams:
        if name not in modalities or name not in manifest.fields:
            there, names = (who, modalities) if name not in modalities else (manifest.folder, manifest.fields)
            raise DataError(f"streams: {there} has no '{name}'; it has {', '.join(names)}")
        modality, field = modalities[name], manifest.fields[name]
        if field.kind != modality.kind:
            kinds = f"{field.kind}, but the run reads it as {modality.kind}"
            raise DataError(f"{manifest.folder}: field '{name}' is {kinds}")
        known = modality.facts.values
        other = [fact for fact in known if field.facts.get(fact) != known[fact]]
        if field.kind == "array" and other:  # an array says nothing of its columns itself
            raise DataError(
                f"{manifest.folder}: field '{name}' was built with other {' and '.join(other)} than the run was "
                "trained on; build it again with those"
            )
