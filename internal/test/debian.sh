#!/usr/bin/env bash
# debian.sh RELEASE PACKAGE PROGRAM prints the path of a program from a package of another release of Debian.
#
# It installs nothing: it unpacks the package with all that it depends on beside Go's build cache, and writes a script
# there that runs the program with the libraries of that release. The mirror is the one that this machine uses already.
set -euo pipefail
release=$1 package=$2 program=$3
root=$(go env GOCACHE)-exactlimit-$release/$package
run=$root/run-$program
if [ -x "$run" ]; then
  echo "$run"
  exit
fi
mkdir -p "$root"/{lists,archives}/partial
cd "$root"
key=/usr/share/keyrings/debian-archive-keyring.gpg
mirror=$(apt-get indextargets --format '$(REPO_URI)' "Component: main" | grep -v security | sort -u | head -1)
echo "deb [signed-by=$key] $mirror $release main" >sources.list
: >status # nothing is installed, so that all that the package depends on is downloaded
apt=(apt-get -qq -o "Dir::Etc::sourcelist=$root/sources.list"
  -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null
  -o "Dir::State::lists=$root/lists" -o "Dir::State::status=$root/status" -o "Dir::Cache=$root"
  -o "Dir::Cache::archives=$root/archives" -o APT::Sandbox::User= -o Acquire::Retries=2)
{
  "${apt[@]}" update
  "${apt[@]}" install -y --no-install-recommends --download-only "$package"
  for file in archives/*.deb; do dpkg-deb -x "$file" files; done
} >&2
rm -r archives lists
loader=$(find -L "$root/files" -name 'ld-linux-*.so.*' -o -name 'ld-musl-*' | head -1)
libraries=$(find "$root/files" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)
binary=$(find "$root/files" -path "*/bin/$program" | head -1)
cat >"$run" <<TXT
#!/bin/sh
exec "$loader" --library-path "$libraries" --argv0 "$program" "$binary" "\$@"
TXT
chmod +x "$run"
echo "$run"
