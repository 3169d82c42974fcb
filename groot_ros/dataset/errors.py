"""The error of this room."""


class DatasetError(RuntimeError):
    """A dataset cannot be read or written; the message names the file, what was expected and found, and what to do."""
