#!/usr/bin/env bash
# Runs everything that CI runs, from a fresh clone: installs what is missing where it can, checks, and tests.
#
#   ./internal/test.sh [-fuzztime 10m]   fuzzes each target for that long, instead of 5 seconds
set -euo pipefail
cd "$(dirname "$0")/.."
fuzztime=5s
if [ "${1:-}" = -fuzztime ]; then fuzztime=$2; fi

staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.7.0 # the newest that Go 1.25 builds

step() { printf '\n== %s\n' "$*"; }

# need COMMAND PACKAGE: installs Debian's PACKAGE unless COMMAND is there.
missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
need redis-server redis-server
need gcc gcc # for go test -race
[ -e /usr/include/stdlib.h ] || command -v brew >/dev/null 2>&1 || missing+=(libc6-dev)
# Debian's takes ten seconds to install. Elsewhere the test in a browser is skipped if there is none.
if grep -qs '^ID=debian' /etc/os-release; then need chromium chromium; fi
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
go test -race -shuffle=on ./...

step "go test, of what the race detector would change"
go test -run Alloc ./core ./internal/httplimit

step "fuzz for $fuzztime each"
for package in core internal/httplimit; do
  for target in $(go test -list '^Fuzz' "./$package" | grep '^Fuzz'); do
    # What it finds stays in testdata/fuzz, where every later run tries it again.
    go test -run '^$' -fuzz "^$target\$" -fuzztime "$fuzztime" "./$package" | grep -v '^fuzz: elapsed' || exit 1
  done
done

step "the benchmark still builds, and counts rightly"
(cd internal/bench && go mod tidy -diff && go vet ./... && go run "$staticcheck" ./... && go test ./...)
