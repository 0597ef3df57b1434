"""From files, and from arrays, to lazy stacks."""

from stillstack.sources.image import image_of
from stillstack.sources.opening import FORMATS, open_source, open_stack
from stillstack.sources.protocol import FileSource, Format, FrameReader, Source
from stillstack.sources.stack import Narrowing, Reads, read_piece, stack_of

__all__ = [
    "FORMATS",
    "FileSource",
    "Format",
    "FrameReader",
    "Narrowing",
    "Reads",
    "Source",
    "image_of",
    "open_source",
    "open_stack",
    "read_piece",
    "stack_of",
]
