"""Settings: ``config.yaml``, ``secrets.env`` and the environment, as one frozen ``Config``.

Only this package and ``entrepot.embedded`` read the environment.
"""

from entrepot.config.load import Loaded, load, load_marked
from entrepot.config.model import Config, SiteSettings
from entrepot.config.paths import data_dir, find_config

__all__ = ["Config", "Loaded", "SiteSettings", "data_dir", "find_config", "load", "load_marked"]
