"""Where the result of a run goes."""

import os
from pathlib import Path

from kanpde.config import RunConfig
from kanpde.ground.errors import ConfigError, shown
from kanpde.records.lock import Lock, Locked, was_killed
from kanpde.users.members import short

LONGEST = 200  # bytes of a file's name, so that those of its pictures and of temporary files are not too long


def reserve(out: str | Path | None, config: RunConfig) -> Lock:
    """Where the result goes, locked: the file asked for, which must not exist, or a new one under runs/.

    What a run left that was killed before its first result is removed.

    Raises:
        ConfigError: the file exists, another run has the name, or the folder cannot be written.
    """
    check_out(out)
    path = Path(os.path.expanduser(out)) if out is not None else Path("runs") / f"{_stem(config)}.h5"
    _make_folder(path.parent)
    again = 1
    while True:
        try:
            if occupied(path) is None:
                return _locked(path)
            if out is not None:
                check_out(out)
        except Locked:
            if out is not None:
                raise
        again += 1
        path = path.with_name(f"{_stem(config)}-{again}.h5")


def _locked(path: Path) -> Lock:
    """The lock of a name without a result; a checkpoint that is there is that of a run that was killed."""
    lock = Lock(path).take()
    if path.exists():  # its writer was done in the meantime
        lock.release()
        raise Locked(f"{path}: another run has just taken this name")
    path.with_suffix(".pt").unlink(missing_ok=True)
    return lock


def occupied(path: Path) -> str | None:
    """Why a name has no room for a new result, and what to do; None: it has, unless a run at work has locked it."""
    checkpoint = path.with_suffix(".pt")
    if os.path.exists(path):  # False of a name too long, too
        return f"{path} exists; choose another name, or --resume {path}"
    if os.path.exists(checkpoint) and not was_killed(path):
        return f"{checkpoint} exists, but no {path} to resume; choose another name, or remove it"
    return None


def _stem(config: RunConfig) -> str:
    given = config.problem
    name = short(str(given["name"]))
    dim = f"{given['dim']}d" if "dim" in given else None  # of a problem of one dimension alone
    which = given.get("equation") or (Path(given["file"]).stem if "file" in given else dim)
    backbone = short(config.backbone["name"])
    stem = "-".join(filter(None, (name, which, backbone)))
    stem = os.fsencode(stem)[: LONGEST - 40].decode(errors="ignore")
    return f"{stem}-seed{config.seed}"


def check_out(out: str | Path | None) -> None:
    """Raises ConfigError where --out is no new .h5 file."""
    if out is None:
        return
    path = Path(os.path.expanduser(out))
    if len(os.fsencode(path.name)) > LONGEST or "\0" in str(out):
        raise ConfigError(f"--out {shown(str(out))}: needed is a name of at most {LONGEST} bytes, none of them 0")
    if os.path.isdir(path):
        raise ConfigError(f"--out {out}: a folder; needed is the path of a file ending in .h5")
    if path.suffix != ".h5":
        raise ConfigError(f"--out {out}: needed is a file ending in .h5")
    if reason := occupied(path):
        raise ConfigError(f"--out {out}: {reason}")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: the folder cannot be made ({error.strerror})") from None
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder}: the folder cannot be written")
