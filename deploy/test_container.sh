#!/usr/bin/env bash
# The program and the CLI as in a pod of deploy/kubernetes, without an image: PID 1
# of a namespace, a user that is not root, no capability and no way to get one, a
# root that cannot be written, and three volumes. As root it becomes the image's
# user; else it takes that user's number in a namespace of its own.
#
#   deploy/test_container.sh PROGRAM CLAUDE
set -euo pipefail
program=$(readlink -f "$1") claude=$(readlink -f "$2")
user=10001
root=$(mktemp -d) server=
# PID 1 takes all of its namespace with it.
trap '[ -z "$server" ] || kill -KILL "$server" 2>/dev/null || true; rmdir "$root"' EXIT

export program claude user root
# Runs within the new namespaces: makes the root, then becomes what is tested.
inside() {
    set -euo pipefail
    mount -t tmpfs none "$root"
    mkdir -p "$root"/{proc,dev,tmp,work,opt,usr,etc,var/lib/claudepool}
    for part in usr etc; do mount --rbind -o ro "/$part" "$root/$part"; done
    for part in bin sbin lib lib64; do
        if [ -L "/$part" ]; then cp -P "/$part" "$root/"
        elif [ -d "/$part" ]; then mkdir "$root/$part" && mount --rbind -o ro "/$part" "$root/$part"; fi
    done
    for file in null zero urandom; do touch "$root/dev/$file" && mount --bind "/dev/$file" "$root/dev/$file"; done
    for file in "$program" "$claude"; do
        touch "$root/opt/${file##*/}" && mount --bind "$file" "$root/opt/${file##*/}"
    done
    for volume in tmp work var/lib/claudepool; do
        mount -t tmpfs -o "mode=0700,uid=$user,gid=$user" none "$root/$volume"
    done
    mount -t proc proc "$root/proc"
    mount -o remount,bind,ro "$root"
    cd "$root"
    exec chroot . /usr/bin/env -i PATH=/usr/bin:/bin HOME=/var/lib/claudepool XDG_DATA_HOME=/var/lib \
        CLAUDEPOOL_CLAUDE_BIN="/opt/${claude##*/}" \
        setpriv "${become[@]}" "$@"
}

become=(--no-new-privs --inh-caps=-all --ambient-caps=-all --bounding-set=-all) namespaces=() enter=()
if [ "$(id -u)" = 0 ]; then
    become+=(--reuid "$user" --regid "$user" --clear-groups)
else
    namespaces=(--user --map-user="$user" --map-group="$user" --keep-caps) enter=(--user --preserve-credentials)
fi
container() {
    unshare "${namespaces[@]}" --mount --pid --fork --kill-child \
        bash -c "$(declare -p become); $(declare -f inside); inside \"\$@\"" inside "$@"
}

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
name=${program##*/}

echo "it is what it says: not root, PID 1, no capability, nothing to write on but the volumes"
# shellcheck disable=SC2016 # Expanded in there.
container bash -c '
    [ "$(id -u)" = 10001 ] && [ $$ = 1 ] && grep -q "^CapEff:[[:space:]]*0*$" /proc/self/status &&
    grep -q "^CapBnd:[[:space:]]*0*$" /proc/self/status && grep -q "^NoNewPrivs:[[:space:]]*1$" /proc/self/status &&
    ! touch /etc/x 2>/dev/null && ! touch /x 2>/dev/null && touch /tmp/x /work/x /var/lib/claudepool/x' \
    || fail "the container of this test is none"

echo "the demo runs: prompts on real processes, a cancel, an orderly end"
said=$(container "/opt/$name" demo --canned </dev/null 2>&1) || fail "the demo failed: $said"
grep -q '10 of 10 succeeded' <<<"$said" || fail "the demo said: $said"

echo "it serves"
coproc SERVER { container "/opt/$name" serve --listen 127.0.0.1:0 2>/dev/null; }
read -r line <&"${SERVER[0]}"
[[ $line == "claudepool is serving on"* ]] || fail "no server: $line"
# shellcheck disable=SC2154 # Set by coproc.
server=$SERVER_PID waiter=$SERVER_PID
while [ "$(<"/proc/$server/comm")" != "$name" ]; do
    read -r server _ <"/proc/$server/task/$server/children" || true
done

echo "another process of its user reads neither its environment nor its memory"
# shellcheck disable=SC2016 # Expanded in there.
nsenter "${enter[@]}" --target "$server" --mount --pid --root \
    env --chdir=/ setpriv "${become[@]}" bash -c '
    [ "$(id -u)" = 10001 ] && cat /proc/self/environ >/dev/null &&
    ! cat /proc/1/environ >/dev/null 2>&1 && ! cat /proc/1/maps >/dev/null 2>&1' \
    || fail "it does"

echo "PID 1 drains at SIGTERM and ends with 0"
kill -TERM "$server"
wait "$waiter" || fail "it ended with $?"
server=
