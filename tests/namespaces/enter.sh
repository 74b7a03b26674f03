#!/bin/sh
# Runs a program in a user namespace, where it may make network namespaces and
# connect them, and in a network namespace, where it has no interface. Needs no
# rights. Inside it is not root, as which PostgreSQL refuses to run.
set -eu

# Debian has `ip` where only root looks.
PATH=$PATH:/usr/sbin:/sbin
export PATH

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

for tool in unshare:util-linux nsenter:util-linux ip:iproute2; do
    command -v "${tool%%:*}" >/dev/null || fail "there is no ${tool%%:*}: install ${tool#*:}"
done

uid=$(id -u) gid=$(id -g)
if [ "$uid" = 0 ]; then
    # A user that has a name, for initdb asks.
    name=postgres
    id "$name" >/dev/null 2>&1 || name=nobody
    uid=$(id -u "$name") gid=$(id -g "$name")
fi
enter() { unshare --user "--map-user=$uid" "--map-group=$gid" --keep-caps --net -- "$@"; }

if ! why=$(enter true 2>&1); then
    fail "user namespaces are forbidden here ($why). To allow them, whichever of these there is:
    sysctl -w user.max_user_namespaces=15000
    sysctl -w kernel.unprivileged_userns_clone=1                   (Debian's kernels)
    sysctl -w kernel.apparmor_restrict_unprivileged_userns=0       (Ubuntu)
    in a container: a seccomp profile that allows unshare"
fi
for kind in bridge veth; do
    why=$(enter ip link add name probe type "$kind" 2>&1) ||
        fail "no interface of the kind $kind can be made ($why): modprobe $kind"
done
[ "$#" -gt 0 ] || exit 0
exec unshare --user "--map-user=$uid" "--map-group=$gid" --keep-caps --net -- "$@"
