"""detrkit: a zoo of interchangeable DETR parts."""

__version__ = "0.1.0"
