# Sourced by .ci/run: a Docker daemon for the length of a run, where none answers.
#
# It is one of our own, and nothing of it outlives the run: its data, its socket and its bridge have names that no other
# daemon uses, so that one that is there already, working or not, is left alone.
# shellcheck shell=bash

docker_folder='' # where the daemon lives; empty while we have none
docker_process=''
docker_bridge="mlxci$$"
docker_networks=10.213.0.0/16 # what its networks are taken from
docker_forward='' # what FORWARD did before; empty where the rules are not ours to mend
docker_passage='' # the networks that we had the rules of others let through
docker_policy='' # the file that keeps a package from starting its services, while it is ours

# Makes sure that a daemon answers: the one at DOCKER_HOST or the usual one, or else one of our own.
docker_up() {
    if docker_answers || docker_begin; then
        return 0
    fi
    echo "where Docker cannot run, \`CI=false .ci/run\` leaves out what needs it" >&2
    return 1
}

docker_answers() {
    command -v docker >/dev/null || return 1
    if command -v timeout >/dev/null; then
        timeout 10 docker version >/dev/null 2>&1
    else
        docker version >/dev/null 2>&1
    fi
}

# Each command here and below says for itself that a failure ends it: bash does not stop at one, called as this is.
docker_begin() {
    if [[ $(uname) != Linux ]]; then
        echo "no Docker answers: start it, then run this again" >&2
        return 1
    fi
    case "${DOCKER_HOST:-unix://}" in
        unix://*) ;;
        *)
            echo "nothing answers at DOCKER_HOST=$DOCKER_HOST, and no daemon can be started there" >&2
            return 1
            ;;
    esac
    docker_install && docker_start
}

docker_install() {
    local packages=()
    command -v dockerd >/dev/null && command -v docker >/dev/null || packages+=(docker.io)
    command -v ip >/dev/null || packages+=(iproute2)
    if ((${#packages[@]} == 0)); then
        return 0
    fi
    apt_update || return 1
    # From Debian 13 on the command has a package of its own, which docker.io only recommends.
    if ! command -v docker >/dev/null && apt_has docker-cli; then
        packages+=(docker-cli)
    fi
    # The package would start a daemon that nobody stops.
    if [[ ! -e /usr/sbin/policy-rc.d ]]; then
        docker_policy=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$docker_policy" >/dev/null || return 1
        "${as_root[@]}" chmod 755 "$docker_policy" || return 1
    fi
    apt_install "${packages[@]}" || return 1
    docker_drop_policy
}

docker_drop_policy() {
    if [[ -n $docker_policy ]]; then
        "${as_root[@]}" rm -f "$docker_policy"
        docker_policy=''
    fi
}

docker_start() {
    docker_folder=$(mktemp -d /tmp/mlx-ci-docker-XXXXXX) || return 1
    # Wherever we were to look: a socket that is there may be that of a daemon which is slow to answer.
    export DOCKER_HOST=unix://$docker_folder/docker.sock

    local options=(
        --host "$DOCKER_HOST" --group "$(id -gn)" --pidfile "$docker_folder/docker.pid"
        --data-root "$docker_folder/data" --exec-root "$docker_folder/exec"
        --bridge "$docker_bridge" --default-address-pool base=$docker_networks,size=24
    )
    if "${as_root[@]}" iptables -n -L DOCKER >/dev/null 2>&1; then
        # Another daemon's rules, which may outlive it: ours would replace them. Ports are published by a proxy all the
        # same, but between containers the other's policy lets nothing through.
        options+=(--iptables=false)
        "${as_root[@]}" iptables -I FORWARD -s "$docker_networks" -d "$docker_networks" -j ACCEPT || return 1
        docker_passage=$docker_networks
    else
        # Where we may not even look, the bridge below says so.
        docker_forward=$("${as_root[@]}" iptables -S FORWARD 2>/dev/null | sed -n 's/^-P FORWARD //p') || true
    fi
    "${as_root[@]}" ip link add "$docker_bridge" type bridge || return 1
    "${as_root[@]}" ip address add 10.212.255.1/24 dev "$docker_bridge" || return 1
    "${as_root[@]}" ip link set "$docker_bridge" up || return 1

    echo "no Docker answers: starting one in $docker_folder"
    "${as_root[@]}" dockerd "${options[@]}" >"$docker_folder/log" 2>&1 &
    docker_process=$! # dockerd, or the sudo that hands on our signals
    for _ in {1..120}; do
        if docker_answers; then
            return 0
        fi
        "${as_root[@]}" kill -0 "$docker_process" 2>/dev/null || break
        sleep 0.5 # between two questions: a daemon has no other way to say that it is ready
    done
    echo "dockerd does not come up; the end of its log:" >&2
    tail -n 20 "$docker_folder/log" >&2
    return 1
}

# Ends what docker_up started, and removes all that it made. Does nothing where it started nothing.
docker_down() {
    docker_drop_policy
    if [[ -z $docker_folder ]]; then
        return 0
    fi
    docker_end "$docker_process"
    # It ends with its parent, unless that had to be killed.
    docker_end "$("${as_root[@]}" cat "$docker_folder/exec/containerd/containerd.pid" 2>/dev/null || true)"
    # Containers that the daemon could not end hold their file systems.
    awk -v below="$docker_folder/" 'index($2, below) == 1 { print $2 }' /proc/self/mounts | sort -r | while read -r mount; do
        "${as_root[@]}" umount -l "$mount" || true
    done
    "${as_root[@]}" ip link delete "$docker_bridge" 2>/dev/null || true
    if [[ -n $docker_forward ]]; then
        "${as_root[@]}" sh -c "iptables-save | sed -e /DOCKER/d -e /$docker_bridge/d -e 's/^:FORWARD DROP/:FORWARD $docker_forward/' | iptables-restore" || true
    fi
    if [[ -n $docker_passage ]]; then
        "${as_root[@]}" iptables -D FORWARD -s "$docker_passage" -d "$docker_passage" -j ACCEPT || true
        docker_passage=''
    fi
    "${as_root[@]}" rm -rf "$docker_folder"
    docker_folder=''
}

# Ends a process, if there is one and it is still there.
docker_end() {
    local signal
    if [[ -z $1 ]]; then
        return 0
    fi
    for signal in TERM KILL; do
        "${as_root[@]}" kill -s "$signal" "$1" 2>/dev/null || return 0
        for _ in {1..60}; do
            "${as_root[@]}" kill -0 "$1" 2>/dev/null || return 0
            sleep 0.5 # between two looks: a shell cannot wait for a process that is not its child
        done
    done
}
