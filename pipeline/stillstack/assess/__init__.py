"""How good registration can be on the user's own frames: `stillstack assess`."""

from stillstack.assess.assessment import assess
from stillstack.assess.result import Assessment, DoseRow

__all__ = ["Assessment", "DoseRow", "assess"]
