"""The error of this room."""


class TrainingError(RuntimeError):
    """Training cannot begin or go on; names file, key or flag, what was expected and found, and what to do."""
