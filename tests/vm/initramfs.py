"""What a VM boots: a Debian kernel, and an initramfs with Python, busybox and hbtrio's own wheel.

Debian packages are downloaded with apt and unpacked with ``dpkg -x``, never installed; libraries
come from where pip gets them, pinned as in constraints.txt. Nothing here needs root.

    CACHE/base-KEY/    vmlinuz and the unpacked packages, modules and libraries (root/)
    CACHE/image-KEY/   vmlinuz and initramfs.cpio: the base and this checkout's hbtrio

A key is a hash of all that goes in, so an image is never out of date; old ones are removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs

CHECKOUT: Final = Path(__file__).resolve().parents[2]

#: Programs that must be there; Debian's packages qemu-system-x86 and cpio bring the first two.
TOOLS: Final = ("qemu-system-x86_64", "cpio", "apt-get", "apt-cache", "dpkg")

#: Of the kernel's modules those between a PCI bus and a port, in the order of their needs; and what
#: libvirt has besides: a disk, a balloon, a panic device, and a button for power.
MODULES: Final = (
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci",
    "drivers/virtio/virtio_mmio",
    "drivers/char/virtio_console",
    "drivers/block/virtio_blk",
    "drivers/virtio/virtio_balloon",
    "drivers/misc/pvpanic/pvpanic",
    "drivers/misc/pvpanic/pvpanic-mmio",
    "drivers/acpi/button",
)

_KERNEL: Final = "linux-image-cloud-amd64"
_PACKAGES: Final = (
    "libc6",
    "libgcc-s1",
    "zlib1g",
    "libexpat1",
    "libssl3",
    "libffi8",
    "libbz2-1.0",
    "liblzma5",
    "libuuid1",
    "python3.11-minimal",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "busybox-static",
)

#: What ``hbtrio guest`` imports; what these need themselves, pip finds out.
_LIBRARIES: Final = ("trio", "attrs", "msgspec", "trio-serial")

#: For the VM's Python, not for the one that runs this.
_FOR_THE_VM: Final = (
    *("--implementation", "cp", "--python-version", "3.11", "--only-binary", ":all:"),
    *("--platform", "manylinux2014_x86_64", "--platform", "manylinux_2_28_x86_64"),
)

#: What no guest needs and a VM would have to unpack at each boot, below the root.
_PRUNED: Final = (
    "usr/share",
    "usr/lib/python3.11/asyncio/__pycache__",
    *(
        f"usr/lib/python3.11/{name}"
        for name in ("test", "unittest", "pydoc_data", "lib2to3", "idlelib", "sqlite3", "wsgiref")
    ),
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/perl-base",
)
_DIST: Final = "usr/lib/python3/dist-packages"

#: Kept beside the one in use.
_BASES: Final = 2
_IMAGES: Final = 4

_COMMAND_S: Final = 300.0
_LOCK_S: Final = 600.0


class BuildError(Exception):
    """The image can't be built; the text says which command said what."""


@attrs.frozen
class Image:
    """What QEMU is given as ``-kernel`` and ``-initrd``."""

    kernel: Path
    initramfs: Path


def obstacle() -> str:
    """Why no image can be built or booted here, in one line; "" if nothing is known to be missing.

    A distribution other than Debian 12 may have all tools and not these packages.
    """
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"real machines need {', '.join(missing)}: apt-get install qemu-system-x86 cpio"
    try:
        _resolve()
    except BuildError as error:
        return f"real machines need packages of Debian 12: {' '.join(str(error).split())}"
    return ""


def cache_directory() -> Path:
    """Where images are kept: below XDG_CACHE_HOME, outside the checkout."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "hbtrio" / "vm"


@contextmanager
def image(cache: Path) -> Iterator[Image]:
    """The image of this checkout, built if need be; not removed by others within the block.

    Raises:
        BuildError: a command failed, or another build holds the cache for too long.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache):
        packages = _resolve()
        base = cache / f"base-{_key(_base_inputs(packages))}"
        if not base.exists():
            _make(base, lambda place: _build_base(place, [name for name, _ in packages]))
        ready = cache / f"image-{_key([base.name, *_program_inputs()])}"
        if not ready.exists():
            _make(ready, lambda place: _build_image(place, base))
        for directory in (base, ready):
            os.utime(directory)
        used = os.open(ready, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(used, fcntl.LOCK_SH)
        _prune(cache, "base-", _BASES)
        _prune(cache, "image-", _IMAGES)
    try:
        yield Image(ready / "vmlinuz", ready / "initramfs.cpio")
    finally:
        os.close(used)


# -- the cache ------------------------------------------------------------------------------


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    deadline = time.monotonic() + _LOCK_S
    with open(cache / "lock", "a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BuildError(f"{lock.name}: another build holds it") from None
                time.sleep(0.2)
        yield


def _make(target: Path, build: Callable[[Path], None]) -> None:
    """Builds into a directory beside, which gets its name when it is whole."""
    place = Path(tempfile.mkdtemp(prefix="building.", dir=target.parent))
    try:
        build(place)
        place.rename(target)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _prune(cache: Path, prefix: str, keep: int) -> None:
    # A build that was killed left its directory; whoever holds the lock is the only builder.
    old = sorted(cache.glob(f"{prefix}*"), key=lambda path: path.stat().st_mtime)[:-keep]
    for directory in [*old, *cache.glob("building.*")]:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # VMs boot from it
        else:
            shutil.rmtree(directory)
        finally:
            os.close(fd)


def _key(inputs: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:16]


def _base_inputs(packages: list[tuple[str, str]]) -> list[str]:
    files = [Path(__file__), CHECKOUT / "constraints.txt"]
    return [*(digest for _, digest in packages), *(file.read_text() for file in files)]


def _program_files() -> list[Path]:
    """What the image is made of besides the base, in this checkout."""
    named = ("pyproject.toml", "README.md", "LICENSE", "tests/vm/init")
    sources = [path for path in (CHECKOUT / "src").rglob("*") if path.suffix in (".py", ".typed")]
    return sorted([*(CHECKOUT / name for name in named), *sources, *_config_files()])


def _config_files() -> list[Path]:
    names = ("guest_heartbeat.conf", "sample_event_script", "sample_health_script")
    return [CHECKOUT / "config" / name for name in names]


def _program_inputs() -> list[str]:
    return [f"{path.relative_to(CHECKOUT)}\n{path.read_text()}" for path in _program_files()]


# -- building -------------------------------------------------------------------------------


def _resolve() -> list[tuple[str, str]]:
    """The packages as apt would download them now: a name and what tells its content."""
    depends = _run("apt-cache", "depends", "--important", _KERNEL)
    found = re.search(r"Depends: (linux-image-\S+)", depends)
    if found is None:
        raise BuildError(f"apt-cache knows no {_KERNEL}; is apt-get update needed?")
    names = [found[1], *_PACKAGES]
    lines = _run("apt-get", "download", "--print-uris", *names).splitlines()
    # 'URI' FILE SIZE DIGEST
    digests = {line.split()[1].partition("_")[0]: line.split()[3] for line in lines}
    return [(name, digests[name]) for name in names]


def _build_base(place: Path, packages: list[str]) -> None:
    debs, kernel, root = place / "debs", place / "kernel", place / "root"
    for directory in (debs, kernel, root):
        directory.mkdir()
    _run("apt-get", "download", "-qq", "-o", "Acquire::Retries=3", *packages, cwd=debs)
    for name in packages:
        (deb,) = debs.glob(f"{name}_*.deb")
        _run("dpkg", "-x", str(deb), str(kernel if name == packages[0] else root))
    shutil.rmtree(debs)
    (found,) = kernel.glob("boot/vmlinuz-*")
    shutil.copy(found, place / "vmlinuz")
    (tree,) = kernel.glob("lib/modules/*/kernel")
    modules = root / "lib/modules"
    modules.mkdir()
    for number, name in enumerate(MODULES):
        # Numbered, as there is no modprobe in there to know the order.
        shutil.copy(tree / f"{name}.ko", modules / f"{number:02}-{Path(name).name}.ko")
    shutil.rmtree(kernel)
    _pip_install(root / _DIST, *_LIBRARIES)
    for name in _PRUNED:
        shutil.rmtree(root / name, ignore_errors=True)
    for name in ("_tests", "tests"):
        for directory in (root / _DIST).glob(f"*/{name}"):
            shutil.rmtree(directory)
    _compile(root, root / "usr/lib")


def _build_image(place: Path, base: Path) -> None:
    root = place / "root"
    with tempfile.TemporaryDirectory() as wheels:
        _run(sys.executable, *_PIP, "wheel", "--no-deps", "--wheel-dir", wheels, str(CHECKOUT))
        (wheel,) = Path(wheels).glob("hbtrio-*.whl")
        _pip_install(root / _DIST, "--no-deps", str(wheel))
    shutil.rmtree(root / _DIST / "bin")  # made for the Python that runs this
    command = root / "usr/bin/hbtrio"
    command.parent.mkdir(parents=True)
    command.write_text(
        "#!/usr/bin/python3.11\nimport sys\nfrom hbtrio.cli import main\n\nsys.exit(main())\n"
    )
    command.chmod(0o755)
    etc = root / "etc/guest-client/heartbeat"
    etc.mkdir(parents=True)
    for path in _config_files():
        shutil.copy(path, etc)
        (etc / path.name).chmod(0o755 if path.suffix == "" else 0o644)
    shutil.copy(Path(__file__).with_name("init"), root / "init")
    (root / "init").chmod(0o755)
    for name in ("proc", "sys", "dev", "run", "tmp", "root"):
        (root / name).mkdir()
    _compile(base / "root", root / _DIST, seen_as=f"/{_DIST}")
    shutil.copy(base / "vmlinuz", place / "vmlinuz")
    with open(place / "initramfs.cpio", "wb") as archive:
        # The kernel unpacks archives one behind the other.
        for tree in (base / "root", root):
            archive.write(_cpio(tree))
    shutil.rmtree(root)


_PIP: Final = ("-m", "pip", "--disable-pip-version-check", "--quiet")


def _pip_install(target: Path, *what: str) -> None:
    constraints = str(CHECKOUT / "constraints.txt")
    where = ("--no-compile", "--target", str(target), "--constraint", constraints)
    _run(sys.executable, *_PIP, "install", *_FOR_THE_VM, *where, *what)


def _compile(python_root: Path, tree: Path, seen_as: str = "/usr/lib") -> None:
    """Compiles with the VM's own Python, so that no boot has to; it need not be this one."""
    libraries = [f"{python_root}/{name}/x86_64-linux-gnu" for name in ("lib", "usr/lib")]
    loader = f"{libraries[0]}/ld-linux-x86-64.so.2"
    python = f"{python_root}/usr/bin/python3.11"
    # Files of a cpio archive get new times: only a .pyc that nothing is compared with stays valid.
    _run(
        *(loader, "--library-path", ":".join(libraries), python, "-I", "-m", "compileall", "-q"),
        *("--invalidation-mode", "unchecked-hash", "-s", str(tree), "-p", seen_as, str(tree)),
    )


def _cpio(tree: Path) -> bytes:
    names = sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))
    return subprocess.run(
        ["cpio", "--null", "--create", "--format=newc", "--owner=0:0", "--quiet"],
        input="\0".join(names).encode(),
        stdout=subprocess.PIPE,
        cwd=tree,
        check=True,
        timeout=_COMMAND_S,
    ).stdout


def _run(*command: str, cwd: Path | None = None) -> str:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=cwd,
            env=environ | {"LC_ALL": "C.UTF-8"},
            check=False,
            timeout=_COMMAND_S,
        )
    except subprocess.TimeoutExpired:
        raise BuildError(f"{command[0]}: not done within {_COMMAND_S:g} s") from None
    if ended.returncode != 0:
        text = f"{' '.join(command[:4])} ... ended with {ended.returncode}: {ended.stderr.strip()}"
        raise BuildError(text)
    return ended.stdout
