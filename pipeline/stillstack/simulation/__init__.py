"""Diffraction frames with known shifts, from formulas: the truth that everything else is held to.

Imports no kernel.
"""

from stillstack.simulation.beamblock import (
    BeamBlock,
    beam_block,
    beam_block_figure,
    beam_block_valid,
)
from stillstack.simulation.longrun import (
    LongRun,
    Motion,
    Timeline,
    evolving_scenes,
    long_timeline,
    simulate_long_run,
)
from stillstack.simulation.pumpprobe import pump_response, simulate_pump_probe
from stillstack.simulation.scene import Scene, crystal_scene, powder_scene, textured_scene
from stillstack.simulation.stacks import (
    PLANTED_KINDS,
    PLANTED_REJECTS,
    SCENES,
    SimulatedStack,
    drift_path,
    simulate_stack,
)

__all__ = [
    "PLANTED_KINDS",
    "PLANTED_REJECTS",
    "SCENES",
    "BeamBlock",
    "LongRun",
    "Motion",
    "Scene",
    "SimulatedStack",
    "Timeline",
    "beam_block",
    "beam_block_figure",
    "beam_block_valid",
    "crystal_scene",
    "drift_path",
    "evolving_scenes",
    "long_timeline",
    "powder_scene",
    "pump_response",
    "simulate_long_run",
    "simulate_pump_probe",
    "simulate_stack",
    "textured_scene",
]
