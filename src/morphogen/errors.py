"""The two errors a user may see: each is one sentence that says what is wrong and what to do."""


class MorphogenError(Exception):
    """Something failed while working; the command line prints the sentence and exits with 1."""

    exit_code = 1


class UsageError(MorphogenError):
    """The request itself is wrong (a bad option, source or config); the command line exits with 2."""

    exit_code = 2
