#!/bin/sh
# Installs hbtrio on this machine: the program in /opt/hbtrio, with a link in /usr/local/bin, and
# the files of its daemon in /etc. It keeps an existing configuration and starts nothing.
#
#   deploy/install.sh guest|host|agent                  as root, in a checkout or on a HBTRIO disk
#   deploy/install.sh --files-only guest|host|agent     with the program already installed
#
# PYTHON is the Python to use (python3). With DESTDIR all files go below that directory, for an image
# with the same Python.
set -eu
# Host and agent do not run as root: a strict umask of root's would lock them out.
umask 022

deploy=$(cd "$(dirname "$0")" && pwd)
top=${deploy%/*}
root=${DESTDIR:-}

usage() {
    echo "usage: $0 [--files-only] guest|host|agent" >&2
    exit 2
}

program() {
    # A guest needs no extra packages.
    extra=
    [ "$role" = guest ] || extra="[$role]"
    python=${PYTHON:-python3}
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "$python: hbtrio needs Python 3.11 or newer; name one with PYTHON=" >&2
        exit 1
    fi
    mkdir -p "$root/opt" "$root/usr/local/bin"
    venv=$(cd "$root/opt" && pwd)/hbtrio
    if [ -d "$top/wheels" ]; then
        # The wheels include pip: not every system has one for its Python.
        "$python" -m venv --without-pip "$venv"
        for pip in "$top"/wheels/pip-*.whl; do :; done # any of them, if there are several
        # --upgrade would keep another build of the same version.
        "$venv/bin/python" "$pip/pip" install --quiet --disable-pip-version-check \
            --no-index --find-links "$top/wheels" --force-reinstall "hbtrio$extra"
    else
        "$python" -m venv "$venv"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
            --constraint "$top/constraints.txt" --upgrade "$top$extra"
    fi
    # An earlier run may have created files under another umask.
    chmod -R go=u-w "$venv"
    if [ -n "$root" ]; then
        # pip writes the path of the Python that runs it into each command.
        for file in "$venv"/pyvenv.cfg "$venv"/bin/*; do
            [ -L "$file" ] || sed -i "s|$venv|/opt/hbtrio|g" "$file"
        done
    fi
    ln -sf /opt/hbtrio/bin/hbtrio "$root/usr/local/bin/hbtrio"
}

# put MODE FILE PLACE: installs the file, replacing an existing one.
put() {
    mkdir -p "${root}${3%/*}"
    cp "$2" "$root$3.new"
    chmod "$1" "$root$3.new"
    mv -f "$root$3.new" "$root$3"
}

# keep MODE FILE PLACE: installs the file unless one exists.
keep() {
    [ -e "$root$3" ] || put "$@"
}

guest() {
    conf=/etc/guest-client/heartbeat
    keep 0644 "$top/config/guest_heartbeat.conf" $conf/guest_heartbeat.conf
    keep 0755 "$top/config/sample_event_script" $conf/sample_event_script
    keep 0755 "$top/config/sample_health_script" $conf/sample_health_script
    if has_systemd; then
        put 0644 "$deploy/hbtrio-guest.service" /etc/systemd/system/hbtrio-guest.service
        put 0644 "$deploy/60-hbtrio-guest.rules" /etc/udev/rules.d/60-hbtrio-guest.rules
        settle "udevadm control --reload"
        echo "installed; then: systemctl enable --now hbtrio-guest"
    else
        put 0755 "$deploy/guest-client.init" /etc/init.d/guest-client
        echo "installed; then: /etc/init.d/guest-client start"
    fi
}

# daemon host|agent
daemon() {
    put 0644 "$deploy/hbtrio.sysusers.conf" /etc/sysusers.d/hbtrio.conf
    put 0644 "$deploy/hbtrio.tmpfiles.conf" /etc/tmpfiles.d/hbtrio.conf
    put 0644 "$deploy/hbtrio-$1.service" "/etc/systemd/system/hbtrio-$1.service"
    keep 0644 "$top/config/$1.toml" "/etc/hbtrio/$1.toml"
    settle "systemd-sysusers hbtrio.conf" "systemd-tmpfiles --create hbtrio.conf"
    echo "installed; then: systemctl enable --now hbtrio-$1"
}

has_systemd() {
    [ -n "$root" ] || [ -d /run/systemd/system ]
}

# settle COMMAND...: makes the system load the new files; does nothing with DESTDIR.
settle() {
    [ -z "$root" ] || return 0
    for command; do
        $command
    done
    [ ! -d /run/systemd/system ] || systemctl daemon-reload
}

with_program=yes
if [ "${1:-}" = --files-only ]; then
    with_program=no
    shift
fi
[ $# -eq 1 ] || usage
case $1 in
    guest | host | agent) role=$1 ;;
    *) usage ;;
esac
[ $with_program = no ] || program
case $role in
    guest) guest ;;
    *) daemon "$role" ;;
esac
