"""Whether frames fail, or the program: what is held back until one frame has come through.

Frames that fail are set aside for good. If all of them fail, from the first on, it is more likely
the program or the source than the frames, and that can be mended.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from stillstack.errors import RunFaultError
from stillstack.job import BlockResult


@dataclass(eq=False)
class Doubt:
    """Results of blocks that are not believed yet.

    Parameters
    ----------
    most_blocks
        How many blocks may fail as a whole, from the first on, before the run stops.
    came_through
        Whether a frame has come through that was looked at; then nothing is doubted.
    """

    most_blocks: int
    came_through: bool = False
    held: list[BlockResult] = field(default_factory=list)

    def believed(self, result: BlockResult, n_seen: int) -> tuple[BlockResult, ...]:
        """Results that may be committed now, in order, this one and those held back before.

        Parameters
        ----------
        result
            Of one block.
        n_seen
            Frames of it that the config does not leave out: a block without any tells nothing.

        Raises
        ------
        RunFaultError
            If too many blocks have failed as a whole.
        """
        if n_seen == 0:
            return (result,)
        if len(result.reasons) == n_seen and not self.came_through:
            self.held.append(result)
            self.refuse(self.most_blocks)
            return ()
        released = (*self.held, result)
        self.held.clear()
        self.came_through = True
        return released

    def refuse(self, enough: int = 1) -> None:
        """Raise RunFaultError where so many blocks are held back."""
        if len(self.held) < enough:
            return
        number, reason = next(iter(self.held[0].reasons.items()))
        raise RunFaultError(
            f"Not one frame of {len(self.held)} blocks can be processed. Frame {number}: {reason}",
            consequence="The run stopped; nothing was set aside.",
            cure="Mend that and run the same command again.",
        )
