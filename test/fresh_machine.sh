#!/usr/bin/env bash
# Sets this package up in a bare Debian, and runs the demo there.
#
#   sudo test/fresh_machine.sh [SUITE [TARGET...]]
#
# SUITE is a suite of Debian (trixie by default, with Python 3.13; bookworm has 3.11, sid the
# newest); the TARGETs of the Makefile (demo by default) run as a normal user, on a clone of the
# present commit. The root has Debian's required packages and python3, python3-venv, make, git. It
# is in a temporary folder, removed at the end; the results are printed. Only the package
# registries are reached, as this machine is set up to reach them: apt's mirror and proxy, pip's
# index, proxy and certificates, the resolver. DEBIAN_MIRROR names another mirror.
set -euo pipefail

suite=${1:-trixie}
targets=("${@:2}")
[ ${#targets[@]} -gt 0 ] || targets=(demo)
packages=python3,python3-venv,make,git
repository=$(git -C "$(dirname "$(readlink -f "$0")")" rev-parse --show-toplevel)

fail() {
  echo "fresh_machine: $*" >&2
  exit 1
}

for command in debootstrap git python3 unshare; do
  command -v "$command" > /dev/null || fail "no '$command' here: apt install $command"
done
[ "$(id -u)" = 0 ] || fail "needs root, for debootstrap and chroot"

# apt's mirror and proxy

mirror() {
  echo "${DEBIAN_MIRROR:-$(apt-get indextargets --format "\$(REPO_URI)" \
    'Created-By: Packages' 'Origin: Debian' 'Label: Debian' 2> /dev/null | head -n 1)}"
}

apt_proxy=
! command -v apt-config > /dev/null || eval "$(apt-config shell apt_proxy Acquire::http::Proxy)"
[ "$apt_proxy" != DIRECT ] || apt_proxy=

# What tells pip how to reach its index, as lines for a pip.conf. Folders and caps of this
# machine are left out.
pip_settings() {
  python3 -m pip config list 2> /dev/null | python3 -c '
import ast, sys
names = ("index-url", "extra-index-url", "cert", "client-cert", "proxy", "trusted-host",
         "timeout", "default-timeout", "retries")
found = {}
for line in sys.stdin:
    key, _, value = line.strip().partition("=")
    section, _, name = key.rpartition(".")
    if name in names and (name not in found or section == ":env:"):
        found[name] = ast.literal_eval(value)
print("[global]")
for name, value in found.items():
    if kept := [item for item in value.split() if not item.startswith("file:")]:
        print(name, "=", " ".join(kept))
'
}

root=$(mktemp -d "${TMPDIR:-/tmp}/fresh_machine.XXXXXX")
# All mounts are made in namespaces of their own below, and have ended with them.
trap 'rm -rf --one-file-system "$root"' EXIT
trap 'exit 130' INT TERM HUP
chmod 755 "$root"  # it becomes / of a normal user

echo "fresh_machine: building $suite in $root"
http_proxy=${http_proxy:-$apt_proxy} unshare --mount debootstrap \
  --variant=minbase --include="$packages" "$suite" "$root" "$(mirror)" > "$root.log" 2>&1 ||
  { tail -n 20 "$root.log" >&2; fail "debootstrap failed: see $root.log"; }
rm "$root.log"

# The network and the registries

for file in /etc/resolv.conf /etc/hosts; do
  [ ! -e "$file" ] || cp --dereference "$file" "$root$file"
done
pip_settings > "$root/etc/pip.conf"
settings=()
for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY SSL_CERT_FILE; do
  [ -z "${!name:-}" ] || settings+=("$name=${!name}")
done
sed -n 's/^\(client-\)\?cert = //p' "$root/etc/pip.conf" | cat - <(echo "${SSL_CERT_FILE:-}") |
  while read -r file; do
    [ ! -f "$file" ] || install -D -m 644 "$file" "$root$file"
  done

# The user and the package

chroot "$root" useradd --create-home --shell /bin/bash robot
home=/home/robot
git clone --quiet --no-hardlinks "$repository" "$root$home/ivf_ros"
git -C "$root$home/ivf_ros" checkout --quiet --detach "$(git -C "$repository" rev-parse HEAD)"
chroot "$root" chown -R robot: "$home"

# Runs a command as that user, with /proc, /sys and /dev, and ends all that it has started. A domain of
# its own: nodes of this machine are none of its business.
domain=$((1 + RANDOM % 100))
inside() {
  # shellcheck disable=SC2016  # expanded by the inner shell
  unshare --mount --pid --fork --kill-child bash -c '
    root=$1 && shift
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/dev/shm"
    exec chroot --userspec=robot:robot "$root" env --ignore-environment "$@"' \
    - "$root" HOME=$home USER=robot LANG=C.UTF-8 PATH=/usr/bin:/bin ROS_DOMAIN_ID=$domain \
    ${settings[@]+"${settings[@]}"} "$@"
}

status=0
begin=$SECONDS
results=("$suite, $(inside python3 -V)")
for target in setup "${targets[@]}"; do
  since=$SECONDS
  inside make --no-print-directory -C "$home/ivf_ros" "$target" || status=$?
  results+=("make $target: $((SECONDS - since)) s, exit status $status")
  [ "$status" = 0 ] || break
done
results+=("$((SECONDS - begin)) s in all")
[ ! -d "$root$home/ivf_ros/.venv" ] ||
  results+=(".venv: $(du -sm "$root$home/ivf_ros/.venv" | cut -f 1) MB")

printf 'fresh_machine: %s\n' "${results[@]}"
exit "$status"
