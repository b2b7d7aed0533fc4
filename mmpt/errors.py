"""What a user may have got wrong; the command line prints the sentence alone and exits with 2."""


class MmptError(Exception):
    """One clear sentence for the user: where, what was expected, what came, what to do."""


class ConfigError(MmptError, ValueError):
    """A recipe or a setting that can't be used."""


class DataError(MmptError):
    """A shard, member, sample, manifest or input file that can't be used; names its place."""


class CheckpointError(MmptError):
    """A checkpoint or run folder that can't be used or written."""


class Interrupted(Exception):
    """A signal asked a run to stop; everything is saved, and the same command goes on."""
