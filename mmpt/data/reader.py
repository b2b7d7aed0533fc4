"""Random access to members by (shard, offset, size), with every byte checked against the manifest."""

import os
import zlib
from collections import OrderedDict
from typing import Any

from mmpt.data.decode import decode
from mmpt.data.manifest import Manifest
from mmpt.errors import DataError

OPEN_SHARDS = 64  # file descriptors a process keeps


class Reader:
    """Reads fields of samples of one data set; cheap to pickle, opens shards where it is used."""

    def __init__(self, manifest: Manifest, fields: list[str]) -> None:
        self.folder = manifest.folder
        self.fields = {name: manifest.fields[name] for name in fields}
        self.shards = [shard.name for shard in manifest.shards]
        self.shard = manifest.column("shard")
        self.key = manifest.column("key")
        self.places = {
            name: tuple(manifest.column(f"{name}.{column}") for column in ("offset", "size", "crc32"))
            for name in fields
        }
        self._open: OrderedDict[int, int] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def place(self, sample: int) -> str:
        """Shard and key, for messages."""
        return f"{self.folder / self.shards[self.shard[sample]]}: sample {self.key[sample]}"

    def read(self, sample: int) -> dict[str, Any]:
        """Decoded fields that the sample has; raises DataError that names shard, key and member."""
        values = {}
        for name, (offset, size, crc32) in self.places.items():
            if offset[sample] < 0:
                continue
            try:
                data = self._bytes(sample, int(offset[sample]), int(size[sample]))
                if zlib.crc32(data) != crc32[sample]:
                    raise DataError("bytes differ from the ones that the manifest was made from (checksum)")
                values[name] = decode(self.fields[name], data)
            except (DataError, OSError) as error:
                raise DataError(f"{self.place(sample)}: member '{name}': {error}") from error
        if not values:
            raise DataError(f"{self.place(sample)}: has none of the fields {', '.join(self.fields)}")
        return values

    def _bytes(self, sample: int, offset: int, size: int) -> bytes:
        data = os.pread(self._descriptor(int(self.shard[sample])), size, offset)
        if len(data) < size:
            raise DataError(f"the tar ends {size - len(data)} bytes too early (truncated)")
        return data

    def _descriptor(self, shard: int) -> int:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        if len(self._open) >= OPEN_SHARDS:
            os.close(self._open.popitem(last=False)[1])
        self._open[shard] = os.open(self.folder / self.shards[shard], os.O_RDONLY)
        return self._open[shard]

    def close(self) -> None:
        """Give the descriptors back."""
        while self._open:
            os.close(self._open.popitem()[1])
