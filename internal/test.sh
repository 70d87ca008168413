#!/usr/bin/env bash
# Checks and tests all that is here. It installs what is missing where it can.
#
#   ./internal/test.sh               runs everything that CI runs, in less than ten minutes on two cores
#   ./internal/test.sh quick         runs what needs no fault, no cluster and no browser, in less than a minute
#   ./internal/test.sh fuzz [time]   fuzzes each target, for 10s unless told otherwise
#   ./internal/test.sh mutants       plants bugs that the torture suite has to find, as the first command does
#   ./internal/test.sh soak [time]   makes decisions under rotating faults, for 1h unless told otherwise, and checks all
#   ./internal/test.sh servers       tests on Redis 7 and 8 and Valkey 8 and 9, as Debian has them, in 15 minutes
set -euo pipefail
cd "$(dirname "$0")/.."
. internal/test/install.sh
export GOFLAGS="$(go env GOFLAGS) -trimpath" # so that a fresh clone in another directory has a warm build cache

staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.7.0 # the newest that Go 1.25 builds
nested="apps metricstest browser proxies bench"       # modules under internal

step() { printf '\n== %d:%02d %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$*"; }

# check_columns fails if a line has more than 120 columns, where a tab takes 4. In Markdown, the rows of tables and the
# lines of ACL files may be longer, because they cannot be wrapped. JSON is not checked, because its strings cannot be
# wrapped either.
check_columns() {
  local long
  long=$(grep -rn . --include='*.'{go,lua,sh,md,yml,yaml,js,css,html} . | sed 's/\t/    /g' |
    LC_ALL=C.UTF-8 grep -E '^[^:]*:[0-9]+:.{121}' | grep -vE '^[^:]*\.md:[0-9]+:(\||user )' || true)
  if [ -n "$long" ]; then
    printf 'more than 120 columns:\n%s\n' "$long"
    exit 1
  fi
}

check() {
  step "gofmt, columns, go mod tidy, go vet and staticcheck"
  local unformatted
  unformatted=$(gofmt -l .)
  if [ -n "$unformatted" ]; then
    printf 'not formatted:\n%s\n' "$unformatted"
    exit 1
  fi
  check_columns
  go mod tidy -diff
  go vet ./...
  go run "$staticcheck" ./...
}

check_nested() {
  step "check the nested modules"
  local module
  for module in $nested; do
    (cd "internal/$module" && go mod tidy -diff && go vet ./... && go run "$staticcheck" ./...) || return
  done
}

test_model() {
  step "the model: every order of events within its bounds"
  go test ./internal/model
}

# quietly prints the report of the faults, or everything if something failed.
quietly() {
  local log
  log=$(mktemp)
  if ! "$@" >"$log" 2>&1; then
    cat "$log"
    exit 1
  fi
  sed -n '/-seed/p; /| fault/,/^ *$/p; /^ok/p' "$log"
  rm "$log"
}

fuzz() {
  local package target
  for package in core internal/httplimit internal/redistest; do
    for target in $(go test -list '^Fuzz' "./$package" | grep '^Fuzz'); do
      # Go keeps an input that fails in testdata/fuzz, and every later run of the tests tries it again.
      go test -run '^$' -fuzz "^$target\$" -fuzztime "$1" "./$package" | grep -v '^fuzz: elapsed' || return
    done
  done
}

test_torture() {
  step "torture: what happens when Redis fails, and whether planted bugs are found"
  # These tests leave half of the processor time, so that other checks cost nothing beside them.
  local checks
  checks=$(mktemp)
  trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
  (renice -n 19 $BASHPID >/dev/null && check_nested && test_model) >"$checks" 2>&1 &
  quietly go test -race -v ./internal/torture
  wait $! || { cat "$checks"; exit 1; }
  cat "$checks"
}

# valkey prints the path of a valkey-server, or fails.
valkey() { command -v valkey-server || internal/test/debian.sh trixie valkey-server valkey-server; }

test_valkey() {
  step "go test, on Valkey"
  local server
  if ! server=$(valkey); then
    echo "left out: there is no valkey-server here, and none can be fetched"
    return
  fi
  "$server" --version
  # Without the tests that take long and are the same on any server.
  EXACTLIMIT_REDIS_SERVER=$server go test -shuffle=on ./core \
    -skip 'Example|Hung|Killed|LateGrants|LostConnections|ManyExpired|Renewed|TakeNoMemory|Wait'
  EXACTLIMIT_REDIS_SERVER=$server quietly go test -v -run 'TestTorture/(none|replies_lost|CLIENT|restart|slots)' \
    ./internal/torture
}

# test_servers runs what depends on the server on those that Debian has.
test_servers() {
  local release package server
  while read -r release package; do
    server=$(internal/test/debian.sh "$release" "$package" "$package")
    step "$("$server" --version)"
    EXACTLIMIT_REDIS_SERVER=$server go test -shuffle=on ./core ./internal/redistest
    EXACTLIMIT_REDIS_SERVER=$server quietly go test -v -run TestTorture ./internal/torture
    (cd internal/bench && EXACTLIMIT_REDIS_SERVER=$server go run . -only bytes)
  done <<TXT
bookworm redis-server
trixie redis-server
trixie valkey-server
sid valkey-server
TXT
}

test_nested() {
  step "applications to which the limiter was added"
  (cd internal/apps && go test -race ./...)
  step "metrics, by OpenTelemetry's SDK and Prometheus's exporter"
  (cd internal/metricstest && go test ./...)
  step "the adapters behind nginx and HAProxy"
  local program
  for program in nginx haproxy; do
    server "$program" >/dev/null || echo "left out: there is no $program here"
  done
  (cd internal/proxies && go test ./...)
  step "the examples' page, in a browser"
  if browser; then
    (cd internal/browser && go test -race -shuffle=on ./...)
  else
    echo "left out: there is no Chromium here"
  fi
  step "the benchmark still builds, and counts rightly"
  (cd internal/bench && go test ./...)
}

need redis-server redis-server
case "${1:-}" in
quick)
  install_missing
  check
  step "go test -short"
  go test -short ./...
  ;;
servers)
  install_missing
  test_servers
  ;;
soak)
  need gcc gcc # for a server whose clock is stepped
  install_missing
  go test -v ./internal/torture -run '^TestSoak$' -soak "${2:-1h}" -timeout 0
  ;;
mutants)
  install_missing
  go test -v ./internal/torture -run '^TestMutantsAreFound$'
  ;;
fuzz)
  install_missing
  fuzz "${2:-10s}"
  ;;
'')
  need gcc gcc # for go test -race
  [ -e /usr/include/stdlib.h ] || command -v brew >/dev/null 2>&1 || missing+=(libc6-dev)
  # On Debian, Chromium and the proxies take ten seconds each to install. Elsewhere the tests of what is not there are
  # left out.
  if grep -qs '^ID=debian' /etc/os-release; then
    browser >/dev/null || missing+=(chromium)
    server nginx >/dev/null || missing+=(nginx-light)
    server haproxy >/dev/null || missing+=(haproxy)
  fi
  install_missing
  check_redis
  export GOFLAGS="$GOFLAGS -count=1" # no cached results, since faults meet calls by chance
  check
  step "go test"
  go test -race -shuffle=on $(go list ./... | grep -Ev '/internal/(model|torture)')
  test_torture
  test_valkey
  step "go test, of what the race detector would change"
  go test -run Alloc ./core ./internal/httplimit
  test_nested
  ;;
*)
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
  ;;
esac
