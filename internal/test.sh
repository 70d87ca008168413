#!/usr/bin/env bash
# Runs everything that CI runs, from a fresh clone: installs what is missing where it can, checks, and tests.
set -euo pipefail
cd "$(dirname "$0")/.."

staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2

step() { printf '\n== %s\n' "$*"; }

# need COMMAND PACKAGE: installs Debian's PACKAGE unless COMMAND is there.
missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
need redis-server redis-server
need gcc gcc # for go test -race
[ -e /usr/include/stdlib.h ] || command -v brew >/dev/null 2>&1 || missing+=(libc6-dev)
if [ ${#missing[@]} -gt 0 ]; then
  step "install ${missing[*]}"
  sudo=
  [ "$(id -u)" = 0 ] || sudo=sudo
  if ! command -v apt-get >/dev/null 2>&1; then
    cat >&2 <<TXT
Missing: ${missing[*]} (Debian's names). Install Redis 7 or later and a C compiler, then run this again:
  Fedora   dnf install redis gcc
  Alpine   apk add redis gcc musl-dev
  macOS    brew install redis; xcode-select --install
TXT
    exit 1
  fi
  $sudo apt-get update -qq
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

step "gofmt"
unformatted=$(git ls-files '*.go' | xargs gofmt -l)
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
