"""The driver's library: found, opened and closed, with advice where that fails."""

from __future__ import annotations

from types import ModuleType


class NvmlUnavailableError(RuntimeError):
    """This machine gives no access to NVML; the message says in one line what to do."""


def binding() -> ModuleType:
    """NVIDIA's Python binding; ``NvmlUnavailableError`` where it is missing or another's."""
    try:
        import pynvml
    except ModuleNotFoundError:
        advice = "the NVML binding is missing: pip install 'flopwise[telemetry]'"
        raise NvmlUnavailableError(advice) from None
    if not callable(getattr(pynvml, "nvmlInitWithFlags", None)):
        raise NvmlUnavailableError(
            "the module pynvml is not NVIDIA's: pip uninstall pynvml, then "
            "pip install --force-reinstall nvidia-ml-py"
        )
    return pynvml  # type: ignore[no-any-return]  # the binding ships no types


def open_library(nvml: ModuleType) -> None:
    """Initialises NVML, to be held open: a driver that no one uses unloads; its counters restart.

    Initialisations nest; the driver counts them. Raises ``NvmlUnavailableError``.
    """
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise NvmlUnavailableError(advice(nvml, error)) from None


def close_library(nvml: ModuleType) -> None:
    """Undoes one ``open_library``; a driver that is gone has forgotten us already."""
    try:
        nvml.nvmlShutdown()
    except nvml.NVMLError:
        return


def advice(nvml: ModuleType, error: Exception) -> str:
    """What to do about an error that leaves nothing to read."""
    if isinstance(error, nvml.NVMLError_LibraryNotFound):
        return (
            "no NVIDIA driver here (libnvidia-ml.so.1 not found): install it, or start the "
            "container with NVIDIA_DRIVER_CAPABILITIES=utility"
        )
    if isinstance(error, nvml.NVMLError_LibRmVersionMismatch):
        return "the NVIDIA driver was upgraded while it ran: reload its kernel modules, or reboot"
    return f"the NVIDIA driver does not answer ({error}): `nvidia-smi` shows what it needs"


def has_symbol(nvml: ModuleType, name: str) -> bool:
    """Whether this driver has the function; the library must be open."""
    return getattr(nvml.nvmlLib, name, None) is not None
