"""Groups of frames, each with a reference of its own, and where these lie to one another."""

from stillstack.network.edges import Edge, measure_edges
from stillstack.network.groups import Groups, groups_of
from stillstack.network.tying import Tied, tie_groups

__all__ = ["Edge", "Groups", "Tied", "groups_of", "measure_edges", "tie_groups"]
