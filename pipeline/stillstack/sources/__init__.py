"""From files, and from arrays, to lazy stacks."""

from stillstack.sources.corrected import CorrectedSource, corrected
from stillstack.sources.image import image_of
from stillstack.sources.opening import FORMATS, open_source, open_stack
from stillstack.sources.protocol import FileSource, Format, FrameReader, Source
from stillstack.sources.selected import SelectedSource, selected
from stillstack.sources.stack import Narrowing, Reads, read_piece, stack_of
from stillstack.sources.steps import PIXEL_SIZE, PIXEL_SIZE_UNITS, frame_step, pixel_steps
from stillstack.sources.stretches import stretches
from stillstack.sources.summed import SummedSource, running_sums

__all__ = [
    "FORMATS",
    "PIXEL_SIZE",
    "PIXEL_SIZE_UNITS",
    "CorrectedSource",
    "FileSource",
    "Format",
    "FrameReader",
    "Narrowing",
    "Reads",
    "SelectedSource",
    "Source",
    "SummedSource",
    "corrected",
    "frame_step",
    "image_of",
    "open_source",
    "open_stack",
    "pixel_steps",
    "read_piece",
    "running_sums",
    "selected",
    "stack_of",
    "stretches",
]
