#!/usr/bin/env bash
# Sets up what the Makefile's targets need, on Debian 12: packaging/setup.sh run|image|vm|test ...
#   run   Python environment, and what the engine and the window use
#   image what makes the embedded container image
#   vm    QEMU and what builds the guest image
#   test  what the test suite compares with and talks to
# Installs only what is missing; leaves a mark in .venv so that make does not ask again.
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A packages=(
  [run]="python3 python3-venv libnftables1 libseccomp2 libglib2.0-0 tini ca-certificates
         libegl1 libgl1 libxkbcommon-x11-0 libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1 libxcb-shape0
         libxcb-xkb1 libxcb-image0 libxcb-render-util0 libxcb-randr0 libdbus-1-3 libfontconfig1 fonts-dejavu-core"
  [image]="qemu-utils e2fsprogs zstd"
  [vm]="qemu-system-x86 qemu-utils e2fsprogs squashfs-tools zstd dpkg-dev kmod cpio busybox-static"
  [test]="busybox-static curl docker-compose docker-registry fonts-noto-cjk iproute2 nftables openssh-client openssh-server qemu-system-arm runc skopeo umoci xauth xvfb"
)

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# What is installed for tests (sshd, a registry, dockerd) must not start as a service (policy-rc.d, Debian Policy 9.3.3).
forbid_services() {
  [ -e /usr/sbin/policy-rc.d ] && return
  printf '#!/bin/sh\nexit 101\n' | as_root tee /usr/sbin/policy-rc.d >/dev/null
  as_root chmod +x /usr/sbin/policy-rc.d
  trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
}

install_packages() {
  local missing=()
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    echo "installing: ${missing[*]}"
    as_root apt-get update -qq
    forbid_services
    as_root env DEBIAN_FRONTEND=noninteractive \
      apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  fi
}

for part in "$@"; do
  # shellcheck disable=SC2086  # a list of words
  install_packages ${packages[$part]}
  case $part in
    run)
      [ -x .venv/bin/python ] || python3 -m venv .venv
      PYTHONWARNINGS=ignore .venv/bin/python -m pip install -q --disable-pip-version-check -e '.[desktop,compose,dev]'
      touch .venv/ready
      ;;
    image) ;;
    vm) touch .venv/ready-vm ;;
    test)
      command -v docker >/dev/null || install_packages docker.io
      touch .venv/ready-test
      ;;
  esac
done
