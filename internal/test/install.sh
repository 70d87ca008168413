# Sourced by test.sh. Installs what the tests need and the machine lacks.

# need COMMAND PACKAGE notes that Debian's PACKAGE is missing, unless COMMAND is there.
missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }

# browser prints the path of a Chromium, or fails.
browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; }

# server prints the path of a server, or fails. Debian keeps servers where only root looks.
server() { PATH=$PATH:/usr/sbin:/usr/local/sbin command -v "$1"; }

# install_missing installs the missing packages where it can. Elsewhere it prints what to install, and exits.
install_missing() {
  [ ${#missing[@]} -gt 0 ] || return 0
  local as_root=
  [ "$(id -u)" = 0 ] || as_root=sudo
  if ! command -v apt-get >/dev/null 2>&1 || { [ -n "$as_root" ] && ! command -v sudo >/dev/null 2>&1; }; then
    cat >&2 <<TXT
Missing: ${missing[*]}. Install them as root, then run this again:
  Debian, Ubuntu   apt-get install ${missing[*]}
  Fedora           dnf install redis gcc
  Alpine           apk add redis gcc musl-dev
  macOS            brew install redis; xcode-select --install
TXT
    exit 1
  fi
  step "install ${missing[*]}"
  $as_root apt-get update -qq
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# check_redis exits if redis-server is too old.
check_redis() {
  local version
  version=$(redis-server --version | sed -n 's/.* v=\([0-9]*\).*/\1/p')
  if [ "${version:-0}" -lt 7 ]; then
    echo "redis-server is version ${version:-unknown}; 7 or later is needed" >&2
    exit 1
  fi
}
