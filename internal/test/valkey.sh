#!/usr/bin/env bash
# Prints the path of a valkey-server of version 8 or later, or fails.
#
# If a Debian machine has none, this unpacks the package beside Go's build cache. It does not install the package, which
# would start a service. In bookworm the package is in the backports only, so this reads their list from the mirror
# that the machine uses already, and leaves the machine's own sources as they are.
set -euo pipefail

usable() { # a version that is supported
  [ "$("$1" --version 2>/dev/null | sed -n 's/.* v=\([0-9]*\).*/\1/p')" -ge 8 ]
} 2>/dev/null

unpack() {
  apt-get "$@" download -qq valkey-server valkey-tools && for file in valkey-*.deb; do dpkg-deb -x "$file" .; done
} >/dev/null 2>&1

unpack_from_backports() {
  local release mirror key=/usr/share/keyrings/debian-archive-keyring.gpg
  release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  [ "$release" = bookworm ] || return
  [ -r "$key" ] && key="[signed-by=$key]" || key=
  mkdir -p lists/partial archives/partial
  for mirror in $(apt-get indextargets --format '$(REPO_URI)' "Release: $release" "Component: main" | sort -u); do
    echo "deb $key $mirror $release-backports main" >backports.list
    set -- -o "Dir::Etc::sourcelist=$cache/backports.list" -o Dir::Etc::sourceparts=- \
      -o "Dir::State::lists=$cache/lists" -o "Dir::Cache=$cache" -o APT::Sandbox::User= \
      -o Acquire::Retries=2 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20
    apt-get "$@" update -qq && unpack "$@" && return
  done
}

if usable valkey-server; then
  command -v valkey-server
  exit
fi
cache=$(go env GOCACHE)-exactlimit-valkey
server=$cache/usr/bin/valkey-server
if ! usable "$server"; then
  { command -v apt-get && command -v dpkg-deb && [ -r /etc/os-release ]; } >/dev/null
  mkdir -p "$cache"
  cd "$cache"
  { unpack || unpack_from_backports; } >&2
fi
usable "$server" && echo "$server"
