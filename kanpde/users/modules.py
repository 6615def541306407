"""A user's problem file as a module: its class, the modules beside it, and the text of all of them for the result."""

import builtins
import hashlib
import importlib
import importlib.machinery
import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from kanpde.ground.errors import ConfigError, suggest

PREFIX = "kanpde_user_"  # of the names of these modules
SITE = [sysconfig.get_path(name) for name in ("purelib", "platlib")]


@dataclass
class _Folder:
    """What lies beside a user's file: on disk, and kept in a result, which is read first; `read` are texts in use."""

    path: Path
    kept: Mapping[str, str] = field(default_factory=dict)
    read: dict[str, str] = field(default_factory=dict)

    def text(self, file: Path) -> str | None:
        """The source of a module at this path, which is remembered; None: there is none."""
        name = file.relative_to(self.path).as_posix()
        if name not in self.kept and not file.is_file():
            return None
        self.read[name] = self.kept[name] if name in self.kept else importlib.util.decode_source(file.read_bytes())
        return self.read[name]

    def has(self, name: str) -> bool:
        """Whether a module of this name lies here, and none that is installed or of the standard library goes before.

        A folder without __init__.py is a module where there is no other of its name.
        """
        if name in sys.stdlib_module_names or name == "kanpde":
            return False
        files = f"{name}.py", f"{name}/__init__.py"
        here = any(file in self.kept or (self.path / file).is_file() for file in files)
        finder = importlib.machinery.PathFinder
        if here or getattr(finder.find_spec(name, [str(self.path)]), "loader", None) is not None:
            return finder.find_spec(name, SITE) is None
        folder = (self.path / name).is_dir() or any(file.startswith(f"{name}/") for file in self.kept)
        return folder and name not in sys.modules and importlib.util.find_spec(name) is None


_FOLDERS: dict[str, _Folder] = {}  # by the name of the module of a user's file


def load_class(name: str, kind: str = "problem") -> type:
    """The class in a user's file, `my_pde.py:MyProblem`; `kind` is what it is, for messages."""
    file, _, cls = name.rpartition(":")
    if Path(file).suffix != ".py" or not cls.isidentifier():
        raise ConfigError(f"{kind} {name}: needed is a file ending in .py and a class in it, such as my_pde.py:MyPDE")
    return class_from_source(_text(file, f"{kind} {name}"), cls, file)


def load_module(file: str) -> ModuleType:
    """A user's file, executed."""
    if Path(file).suffix != ".py":
        raise ConfigError(f"{file}: needed is a file ending in .py")
    return _module(_text(file, file), file)


def _text(file: str, what: str) -> str:
    try:
        if not os.path.isfile(file):
            raise ConfigError(f"{what}: no file {file}")
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what}: {file} cannot be read: {error}") from None


def class_from_source(source: str, cls: str, file: str, beside: Mapping[str, str] | None = None) -> type:
    """Execute the source of a user's file as a module and return its class.

    The modules beside the file can be imported, at once and later within its functions. They are this file's own, so
    one of the same name beside another file is another; sys.path stays as it is.

    Args:
        beside: their sources by path, kept in a result; of others those on disk.
    Raises:
        ConfigError: what the file raises, with its line; no such class.
    """
    module = _module(source, file, beside)
    if not hasattr(module, cls):
        root = module.__name__
        classes = [k for k, v in vars(module).items() if isinstance(v, type) and v.__module__.startswith(root)]
        raise ConfigError(suggest(f"class in {file}", cls, classes))
    return getattr(module, cls)


def _module(source: str, file: str, beside: Mapping[str, str] | None = None) -> ModuleType:
    """The module of a source, executed."""
    folder = Path(file).resolve().parent
    root = PREFIX + hashlib.sha256(f"{folder}\n{source}".encode()).hexdigest()[:12]
    for name in [name for name in sys.modules if name == root or name.startswith(f"{root}.")]:
        del sys.modules[name]  # of an earlier execution; what lies beside may have changed
    _FOLDERS[root] = _Folder(folder, beside or {})
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
    importlib.invalidate_caches()
    module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(root, None, is_package=True))
    module.__file__, module.__path__ = file, [str(folder)]
    sys.modules[root] = module  # dataclasses look their module up
    try:
        _execute(source, file, module)
    except (Exception, SystemExit) as error:
        raise ConfigError(place(error) or f"{file}: {type(error).__name__}: {error}") from error
    return module


def _execute(source: str, file: str, module: ModuleType) -> None:
    root = module.__name__.partition(".")[0]
    module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _importing(root)}
    exec(compile(source, file, "exec"), module.__dict__)


def _importing(root: str) -> Callable:
    """The `__import__` of a user's file: what lies beside it is a submodule of its module."""

    def imported(name, globals=None, locals=None, fromlist=(), level=0):
        top = name.partition(".")[0]
        if level or not _FOLDERS[root].has(top):
            return builtins.__import__(name, globals, locals, fromlist, level)
        found = builtins.__import__(f"{root}.{name}", globals, locals, fromlist, 0)
        return found if fromlist else sys.modules[f"{root}.{top}"]

    return imported


class _Finder:
    """Finds what lies beside a user's file, by the names below that of its module."""

    @staticmethod
    def find_spec(name: str, path=None, target=None) -> importlib.machinery.ModuleSpec | None:
        root, _, below = name.partition(".")
        if root not in _FOLDERS or not below:
            return None
        for folder in path or ():
            last = below.rpartition(".")[2]
            for file, inner in (
                (Path(folder, last, "__init__.py"), [str(Path(folder, last))]),
                (Path(folder, f"{last}.py"), None),
            ):
                if (source := _FOLDERS[root].text(file)) is not None:
                    return importlib.util.spec_from_file_location(
                        name, file, loader=_Loader(source, str(file)), submodule_search_locations=inner
                    )
        return None


class _Loader:
    """Executes a source; nothing is written beside it."""

    def __init__(self, source: str, file: str):
        self.source, self.file = source, file

    def create_module(self, spec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        _execute(self.source, self.file, module)


# ---------------------------------------------------------------------------------------------------------------
# What a result keeps of it


class Kept(NamedTuple):
    """The text of a user's file, and those of the modules beside it that were imported, by path."""

    source: str
    beside: Mapping[str, str] = {}

    def changed(self, file: Path) -> Path | None:
        """The file, or one beside it, that is there but no longer what was kept."""
        if file.is_file() and file.read_text(encoding="utf-8") != self.source:
            return file
        for path, source in self.beside.items():
            beside = file.parent / path
            if not beside.is_file() or importlib.util.decode_source(beside.read_bytes()) != source:
                return beside
        return None


def kept_of(name: str, module: str) -> Kept | None:
    """What a result keeps of `my_pde.py:MyProblem`, which was executed as a module; None: it is of no user's file."""
    file, colon, _ = name.rpartition(":")
    if not colon or not Path(file).is_file():
        return None
    folder = _FOLDERS.get(module.partition(".")[0])
    return Kept(Path(file).read_text(encoding="utf-8"), dict(folder.read) if folder else {})


# ---------------------------------------------------------------------------------------------------------------
# Where in it something went wrong


def place(error: BaseException, is_users: Callable[[dict], bool] | None = None) -> str | None:
    """`my_pde.py, line 12, in residual: TypeError: ...`, of the innermost frame in a user's code; None: there is none.

    Args:
        is_users: whether code with these globals is a user's; default: whether `load_class` has executed it.
    """
    is_users = is_users or (lambda names: str(names.get("__name__")).startswith(PREFIX))
    found = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        if is_users(frame.f_globals):
            found = Path(frame.f_code.co_filename).name, line, frame.f_code.co_name
    said = _said(error)
    if isinstance(error, SyntaxError) and error.filename and (found or error.filename.endswith(".py")):
        return f"{Path(error.filename).name}, line {error.lineno}: {said}"
    if found is None:
        return None
    file, line, function = found
    return f"{file}, line {line}{'' if function == '<module>' else f', in {function}'}: {said}"


def _said(error: BaseException) -> str:
    """The error in one line, names as the user wrote them."""
    if isinstance(error, SystemExit):
        return "SystemExit: the file ends Python where it is read"
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    for root in _FOLDERS:
        text = text.replace(f"{root}.", "")
    if isinstance(error, ModuleNotFoundError):
        text += " (neither installed nor beside the file)"
    return " ".join(f"{type(error).__name__}: {text}".split())
