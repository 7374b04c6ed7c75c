"""Where the data directory and the config file are, when nobody says.

The *data directory* holds what ``entrepot up`` keeps: servers, their data, ``config.yaml`` and
``secrets.env``. This package and ``entrepot.embedded`` alone read the environment.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from entrepot.errors import ConfigError

CONFIG_NAME: Final = "config.yaml"
SECRETS_NAME: Final = "secrets.env"


def data_dir(env: Mapping[str, str] | None = None) -> Path:
    """``$ENTREPOT_DATA``, else ``/var/lib/entrepot`` for root, else ``~/.local/share/entrepot``."""
    named = environment(env).get("ENTREPOT_DATA")
    if named:
        return Path(named).expanduser()
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/entrepot")
    return Path.home() / ".local/share/entrepot"


def find_config(path: Path | None = None, *, env: Mapping[str, str] | None = None) -> Path:
    """The config file to read: ``path``, else ``$ENTREPOT_CONFIG``, else the first that exists of
    ``./config.yaml`` and the data directory's ``config.yaml``. Raises ``ConfigError``.
    """
    named = environment(env).get("ENTREPOT_CONFIG")
    if path is None and named:
        path = Path(named)
    if path is not None:
        if not path.is_file():
            raise ConfigError("no such config file", hint="check --config", path=str(path))
        return path
    found = (Path(CONFIG_NAME), data_dir(env) / CONFIG_NAME)
    for candidate in found:
        if candidate.is_file():
            return candidate
    raise ConfigError(
        f"no config file, neither {found[0]} nor {found[1]}",
        hint="entrepot up, or name one with --config or $ENTREPOT_CONFIG",
    )


def environment(env: Mapping[str, str] | None = None) -> Mapping[str, str]:
    """``env``, or the process's own."""
    return os.environ if env is None else env
