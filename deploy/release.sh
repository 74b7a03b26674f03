#!/usr/bin/env bash
# Builds what is published of this version, into target/release-files: the program
# with its licences and those of all it is made of, and checksums. `make release`
# checks licences and sources first.
#
#   deploy/release.sh [--binary PROGRAM]   with one that is built already: a rehearsal
set -euo pipefail
cd "$(dirname "$0")/.."

tell() { printf '%s\n' "$*" >&2; }
fail() { tell "error: $*"; exit 1; }

binary=
case "${1-}" in
    '') ;;
    --binary) binary=${2:?the program} ;;
    *) fail "usage: deploy/release.sh [--binary PROGRAM]" ;;
esac

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
if [ -z "$binary" ]; then
    # What is published can be built again from its tag.
    [ -z "$(git status --porcelain)" ] || fail "there are changes that are not committed"
    [ "$(git describe --tags --exact-match 2>/dev/null || true)" = "v$version" ] || fail "this commit has no tag v$version"
    grep -q "^## $version" CHANGELOG.md || fail "CHANGELOG.md has no section $version"
    cargo build --release --locked --bin claudepool
    binary=${CARGO_TARGET_DIR:-target}/release/claudepool
else
    tell "a rehearsal: $binary is taken as it is, and nothing asks for a tag"
fi

said=$("$binary" --version)
[ "$said" = "claudepool $version" ] || fail "$binary says it is $said, not claudepool $version"

# The same input gives the same bytes: no time, owner or order of this machine.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
files=target/release-files
name=claudepool-$version-$(uname -s | tr '[:upper:]' '[:lower:]')-$(uname -m)
rm -rf "$files"
mkdir -p "$files/$name"
strip -o "$files/$name/claudepool" "$binary"
chmod 0755 "$files/$name/claudepool"
cp README.md CHANGELOG.md SECURITY.md LICENSE-APACHE LICENSE-MIT "$files/$name/"
cp -r deploy/systemd "$files/$name/"
deploy/third_party.py >"$files/$name/THIRD-PARTY-LICENSES.txt"
find "$files/$name" -type f ! -perm -u+x -exec chmod 0644 {} +

tar --create --directory "$files" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
    "$name" | gzip --no-name --best >"$files/$name.tar.gz"
rm -r "${files:?}/$name"
(cd "$files" && sha256sum -- *.tar.gz >SHA256SUMS && sha256sum --check --quiet SHA256SUMS)
tell "made $files/$name.tar.gz and $files/SHA256SUMS"
