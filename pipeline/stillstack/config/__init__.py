"""The config of a run as a value: one module for each section that has rules of its own."""

from stillstack.config.cluster import ClusterConfig
from stillstack.config.correction import CorrectionConfig
from stillstack.config.digest import config_digest, result_settings
from stillstack.config.exclude import ExcludeConfig
from stillstack.config.network import NetworkConfig
from stillstack.config.places import InputConfig, OutputConfig
from stillstack.config.registration import (
    AlignmentConfig,
    ReferenceConfig,
    RegistrationConfig,
    ShiftsConfig,
)
from stillstack.config.run_config import (
    RunConfig,
    as_config,
    json_schema,
    load_config,
    make_config,
    to_yaml,
)
from stillstack.config.trajectory import TrajectoryConfig
from stillstack.config.valid import Figure, Length, ValidConfig, ValidSections

__all__ = [
    "AlignmentConfig",
    "ClusterConfig",
    "CorrectionConfig",
    "ExcludeConfig",
    "Figure",
    "InputConfig",
    "Length",
    "NetworkConfig",
    "OutputConfig",
    "ReferenceConfig",
    "RegistrationConfig",
    "RunConfig",
    "ShiftsConfig",
    "TrajectoryConfig",
    "ValidConfig",
    "ValidSections",
    "as_config",
    "config_digest",
    "json_schema",
    "load_config",
    "make_config",
    "result_settings",
    "to_yaml",
]
