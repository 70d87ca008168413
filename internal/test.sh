#!/usr/bin/env bash
# Runs everything that CI runs, from a fresh clone: installs what is missing where it can, checks, and tests.
#
#   ./internal/test.sh [-fuzztime 10m]   fuzzes each target for that long, instead of 5,000 times
set -euo pipefail
cd "$(dirname "$0")/.."
fuzztime=5000x # not a second, since a deadline can fail a target that has only just begun
if [ "${1:-}" = -fuzztime ]; then fuzztime=$2; fi

staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.7.0 # the newest that Go 1.25 builds

step() { printf '\n== %d:%02d %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$*"; }

# need COMMAND PACKAGE: installs Debian's PACKAGE unless COMMAND is there.
missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
need redis-server redis-server
need gcc gcc # for go test -race
[ -e /usr/include/stdlib.h ] || command -v brew >/dev/null 2>&1 || missing+=(libc6-dev)
# Debian's takes ten seconds to install. Elsewhere the tests in a browser are left out if there is none.
browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; }
if grep -qs '^ID=debian' /etc/os-release; then browser >/dev/null || missing+=(chromium); fi
if [ ${#missing[@]} -gt 0 ]; then
  as_root=
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
fi
version=$(redis-server --version | sed -n 's/.* v=\([0-9]*\).*/\1/p')
if [ "${version:-0}" -lt 7 ]; then
  echo "redis-server is version ${version:-unknown}; 7 or later is needed" >&2
  exit 1
fi

step "gofmt"
unformatted=$(gofmt -l .)
if [ -n "$unformatted" ]; then
  printf 'not formatted:\n%s\n' "$unformatted"
  exit 1
fi

step "go mod tidy"
go mod tidy -diff

step "go vet"
go vet ./...

step "staticcheck"
go run "$staticcheck" ./...

step "go test"
go test -race -shuffle=on $(go list ./... | grep -v /internal/torture)

# quietly prints the report of the faults, and all there is where something failed.
quietly() {
  local log
  log=$(mktemp)
  if "$@" >"$log" 2>&1; then sed -n '/-seed/p; /| fault/,/^ *$/p; /^ok/p' "$log"; rm "$log"; else cat "$log"; rm "$log"; exit 1; fi
}

# beside is what takes much processor time and can wait, since the tests of faults leave half of it.
beside() {
  renice -n 19 $BASHPID >/dev/null
  step "fuzz each target, $fuzztime"
  for package in core internal/httplimit; do
    for target in $(go test -list '^Fuzz' "./$package" | grep '^Fuzz'); do
      # What it finds stays in testdata/fuzz, where every later run tries it again.
      go test -run '^$' -fuzz "^$target\$" -fuzztime "$fuzztime" "./$package" | grep -v '^fuzz: elapsed' || return
    done
  done
  step "check the nested modules"
  for module in metricstest browser bench; do
    (cd internal/$module && go mod tidy -diff && go vet ./... && go run "$staticcheck" ./...) || return
  done
}

step "torture: what happens when Redis fails, and whether planted bugs are found"
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
besides=$(mktemp)
beside >"$besides" 2>&1 &
quietly go test -race -v ./internal/torture
wait $! || { cat "$besides"; exit 1; }
cat "$besides"

# valkey: prints the path of a valkey-server of version 8 or later, or fails. Where the machine has none and is a Debian, the
# package is unpacked beside Go's build cache, and not installed: that would start a service, and bookworm has it in its
# backports alone, for which no source need be added to the machine's own. The mirror is one that the machine uses already.
valkey() {
  valkey_runs valkey-server && { command -v valkey-server; return; }
  local cache server release mirror key
  cache=$(go env GOCACHE)-exactlimit-valkey
  server=$cache/usr/bin/valkey-server
  valkey_runs "$server" && { echo "$server"; return; }
  { command -v apt-get && command -v dpkg-deb && [ -r /etc/os-release ]; } >/dev/null || return
  mkdir -p "$cache" && cd "$cache" || return
  valkey_unpack || {
    release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    [ "$release" = bookworm ] || return
    key=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -r "$key" ] && key="[signed-by=$key]" || key=
    mkdir -p lists/partial archives/partial
    for mirror in $(apt-get indextargets --format '$(REPO_URI)' "Release: $release" "Component: main" | sort -u); do
      echo "deb $key $mirror $release-backports main" >backports.list
      set -- -o "Dir::Etc::sourcelist=$cache/backports.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$cache/lists" \
        -o "Dir::Cache=$cache" -o APT::Sandbox::User= \
        -o Acquire::Retries=2 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20
      apt-get "$@" update -qq && valkey_unpack "$@" && break
    done
  } >&2
  valkey_runs "$server" && echo "$server"
}
valkey_unpack() {
  apt-get "$@" download -qq valkey-server valkey-tools && for file in valkey-*.deb; do dpkg-deb -x "$file" .; done
} >/dev/null 2>&1
valkey_runs() { # in a version that is served
  [ "$("$1" --version 2>/dev/null | sed -n 's/.* v=\([0-9]*\).*/\1/p')" -ge 8 ]
} 2>/dev/null

step "go test, on Valkey"
if server=$(valkey); then
  "$server" --version
  # Not what takes long and is the same on any server.
  EXACTLIMIT_REDIS_SERVER=$server go test -shuffle=on ./core \
    -skip 'Example|Hung|LostConnections|ManyExpired|TakeNoMemory|ThreeProcesses|Wait'
  EXACTLIMIT_REDIS_SERVER=$server quietly go test -v -run 'TestTorture/(none|replies_lost|CLIENT|restart|slots)' ./internal/torture
else
  echo "left out: there is no valkey-server 8 or later here, and it cannot be fetched"
fi

step "go test, of what the race detector would change"
go test -run Alloc ./core ./internal/httplimit

step "metrics, by OpenTelemetry's SDK and Prometheus's exporter"
(cd internal/metricstest && go test ./...)

step "the examples' page, in a browser"
if browser; then
  (cd internal/browser && go test -race -shuffle=on ./...)
else
  echo "left out: there is no Chromium here"
fi

step "the benchmark still builds, and counts rightly"
(cd internal/bench && go test ./...)
