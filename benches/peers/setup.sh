#!/usr/bin/env bash
# Fetches what claudepool is compared to into one scratch folder, each with its
# ordinary package client, pinned. Nothing is installed outside of the folder.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
to=${1:?the scratch folder}
mkdir -p "$to"
cd "$to"

need() { command -v "$1" >/dev/null || { echo "error: there is no $1 in PATH: install $2" >&2; exit 1; }; }
need npm 'Node.js with npm'
need python3 'Python 3.10 or newer with venv and pip'
need cargo 'Rust 1.90 or newer'
need apt-get 'a Debian or Ubuntu, for its redis-server'
need dpkg-deb 'dpkg'
[ -x /usr/lib/postgresql/15/bin/postgres ] || { echo "error: there is no PostgreSQL 15: install postgresql-15" >&2; exit 1; }

if [ ! -e node_modules/ioredis ]; then
    npm install --prefix . --no-audit --no-fund --loglevel error bullmq@6.7.0 ioredis@5.11.1 graphile-worker@0.16.6 pg@8.23.1
fi
# Modules are looked for from where a script lies.
cp "$here/queue.mjs" .

[ -x python/bin/python ] || python3 -m venv python
# Does nothing where all of it is there.
python/bin/pip install --quiet --disable-pip-version-check \
    claude-agent-sdk==0.2.184 procrastinate==3.10.0 'psycopg[binary]==3.3.9'
cp "$here/cli.py" "$here/submit.py" .

if [ ! -x redis/usr/bin/redis-server ]; then
    mkdir -p debs && (cd debs && apt-get download redis-server redis-tools libjemalloc2 liblzf1 libatomic1 libhiredis0.14 liblua5.1-0 lua-cjson lua-bitop 2>/dev/null)
    for deb in debs/*.deb; do dpkg-deb -x "$deb" redis; done
fi

cp -r "$here/rust" .
CARGO_TARGET_DIR=$PWD/rust-target cargo build --quiet --release --manifest-path rust/Cargo.toml
