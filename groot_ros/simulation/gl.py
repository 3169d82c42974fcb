"""Which OpenGL the headless renderer uses: EGL, else OSMesa, else a message that says what to install."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping

APT_PACKAGES = "libegl1 libegl-mesa0 libgl1-mesa-dri libosmesa6"
_EGL_PLATFORM_DEVICE_EXT = 0x313F
_MAX_DEVICES = 16


class NoRenderer(RuntimeError):
    """This machine cannot render; the message names the packages."""


def egl_works() -> bool:
    """Whether some EGL device can be initialised: what mujoco's EGL context will try, without importing it."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    address = egl.eglGetProcAddress
    address.restype, address.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    query_address, display_address = address(b"eglQueryDevicesEXT"), address(b"eglGetPlatformDisplayEXT")
    if not query_address or not display_address:
        return False
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    query = ctypes.CFUNCTYPE(integer, integer, pointer, pointer)(query_address)
    get_display = ctypes.CFUNCTYPE(pointer, integer, pointer, pointer)(display_address)
    egl.eglInitialize.argtypes = [pointer, pointer, pointer]
    devices, count = (pointer * _MAX_DEVICES)(), integer(0)
    if not query(_MAX_DEVICES, ctypes.addressof(devices), ctypes.addressof(count)):
        return False
    for device in devices[: count.value]:
        display = get_display(_EGL_PLATFORM_DEVICE_EXT, device, None)
        # Not terminated again: EGL has one display per device in a process, and a renderer may be using it.
        if display and egl.eglInitialize(display, None, None):
            return True
    return False


def osmesa_works() -> bool:
    """Whether the off-screen Mesa library loads."""
    for name in ("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


def choose(
    environment: Mapping[str, str] = os.environ,
    has_egl: Callable[[], bool] = egl_works,
    has_osmesa: Callable[[], bool] = osmesa_works,
) -> str:
    """Return the value for ``MUJOCO_GL``: the user's if set and possible, else ``egl``, else ``osmesa``.

    Raises:
        NoRenderer: neither works, or the one that the user names does not.
    """
    works = {"egl": has_egl, "osmesa": has_osmesa}
    wanted = environment.get("MUJOCO_GL", "").strip().lower()
    if wanted and wanted not in works:
        return wanted  # glfw and the like: a desktop user's own choice
    for name in [wanted] if wanted else works:
        if works[name]():
            return name
    found = f"MUJOCO_GL={wanted} does not work here" if wanted else "found neither a working EGL nor OSMesa"
    raise NoRenderer(
        f"cannot render the cameras: {found}; install one with `sudo apt-get install {APT_PACKAGES}`"
        + (" or unset MUJOCO_GL" if wanted else "")
    )
