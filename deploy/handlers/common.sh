# What the handlers beside this file share; they source it. Any POSIX sh, with timeout(1).
#
# A handler is called as EVENT_NOTIFICATION_SCRIPT: `HANDLER revocable|irrevocable EVENT`. Settings are
# read from handlers.conf, as NAME=VALUE lines of a shell.
set -u

conf=${HBTRIO_HANDLERS_CONF:-/etc/guest-client/heartbeat/handlers.conf}
# shellcheck source=/dev/null
[ ! -r "$conf" ] || . "$conf"

name=${0##*/}
#: Gone after a reboot; the guest's unit makes it, for root alone.
run=${GUEST_CLIENT_FLAGS:-/run/guest-client}

# Ends with a reject, or with the failure of a notice.
refuse() {
    printf '%s\n' "$*"
    exit 1
}

# Ends without an answer: FAILURE_POLICY decides. The cause goes to the guest's log.
undecided() {
    printf '%s\n' "$*" >&2
    ulimit -c 0
    kill -s ABRT $$
}

# has WORD LIST: whether the list has the word.
has() {
    case " $2 " in *" $1 "*) return 0 ;; esac
    return 1
}

# bounded SECONDS COMMAND...: 124 or more if it took longer; what does not end at TERM is killed.
bounded() {
    seconds=$1
    shift
    timeout -k 1 "$seconds" "$@"
}

# Waits for the lock of this handler, for at most 5 s, and holds it until the end: a newer event ends
# the older handler, whose last command may still be at work.
lock() {
    mkdir -p "$run" || undecided "$run: can't be made"
    exec 9>"$run/$name.lock"
    flock -w 5 9 || undecided "an earlier $name is still at work"
}

# watchdog SECONDS ARGUMENT...: has this handler run with `watchdog SECONDS ARGUMENT...`, apart from the
# guest: its end, or that of this handler, must not end the watchdog. Fails unless it is running.
watchdog() {
    ready=$run/$name.ready
    rm -f "$ready"
    self=$(readlink -f "$0")
    if [ -d "${SYSTEMD_RUN_DIR:-/run/systemd/system}" ] && command -v systemd-run >/dev/null; then
        # A process of the guest's unit would be killed with it.
        bounded 3 systemd-run --quiet --collect --setenv="HBTRIO_HANDLERS_CONF=$conf" \
            --setenv="GUEST_CLIENT_FLAGS=$run" --unit="hbtrio-$name-$$" \
            /bin/sh "$self" watchdog "$@" 9>&- >&2 || return 1
    else
        HBTRIO_HANDLERS_CONF=$conf GUEST_CLIENT_FLAGS=$run \
            setsid /bin/sh "$self" watchdog "$@" 9>&- </dev/null >/dev/null 2>&1 &
    fi
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        [ ! -e "$ready" ] || return 0
        sleep 0.1 2>/dev/null || sleep 1
    done
    return 1
}

usage() {
    printf 'usage: %s revocable|irrevocable EVENT\n' "$name" >&2
    exit 2
}
