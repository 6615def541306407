"""What a user states of a run, from YAML and flags to a typed configuration."""

from kanpde.config.files import AUTO, HIGH_DIM, beside, default_solver, find, library, load, located, shipped, unstated
from kanpde.config.schema import PhaseConfig, ReferenceConfig, RunConfig, SlicesConfig, resolve
from kanpde.config.trees import assign, dump, merge, validate
from kanpde.ground.errors import ConfigError

__all__ = [
    "AUTO",
    "HIGH_DIM",
    "ConfigError",
    "PhaseConfig",
    "ReferenceConfig",
    "RunConfig",
    "SlicesConfig",
    "assign",
    "beside",
    "default_solver",
    "dump",
    "find",
    "library",
    "load",
    "located",
    "merge",
    "resolve",
    "shipped",
    "unstated",
    "validate",
]
