#!/usr/bin/env bash
# System libraries for headless rendering (EGL, or OSMesa in software): installed with apt-get where this user may,
# else named with the command. Says nothing and touches no network when they are there.
set -euo pipefail

have_library() { /sbin/ldconfig -p 2>/dev/null | grep -q "$1"; }
have_software_driver() { compgen -G '/usr/lib/*/dri/swrast_dri.so' >/dev/null || have_library 'libgallium'; }

missing=()
have_library 'libEGL\.so\.1' || missing+=(libegl1)
have_software_driver || missing+=(libgl1-mesa-dri)
have_library 'libOSMesa\.so\.' || missing+=(libosmesa6)
((${#missing[@]})) || exit 0

install="apt-get install -y --no-install-recommends ${missing[*]}"
echo
echo "==> system libraries for headless rendering: ${missing[*]}"
if ! command -v apt-get >/dev/null; then
    echo "This machine has no apt-get. Install what its own packages call: ${missing[*]}"
    exit 0
fi
if [[ $EUID -eq 0 ]]; then
    as_root=()
elif sudo -n true 2>/dev/null; then
    as_root=(sudo -n)
else
    echo "Not root, and sudo would ask for a password. Rendering needs them, so please run:"
    echo "    sudo $install"
    exit 0
fi
run() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive "$@"; }
# shellcheck disable=SC2086  # the words of the command
if ! { run $install -q || { run apt-get update -q && run $install -q; }; }; then
    echo "apt-get failed (no network?). Going on; if rendering fails, run: ${as_root[*]:+sudo }$install"
fi
