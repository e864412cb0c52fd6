#!/bin/sh
# Installs hbtrio on this machine: the program in /opt/hbtrio, with a link in /usr/local/bin, its
# manual pages and completions in /usr/local/share, and the files of its daemon in /etc. It keeps an
# existing configuration and starts nothing.
#
#   deploy/install.sh guest|host|agent                  as root, in a checkout or on a HBTRIO disk
#   deploy/install.sh --files-only guest|host|agent     with the program already installed
#   deploy/install.sh --uninstall guest|host|agent      stops and removes it, keeps the configuration
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
    echo "usage: $0 [--files-only|--uninstall] guest|host|agent" >&2
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
    if [ ! -d "$top/wheels" ] && [ ! -f "$top/pyproject.toml" ]; then
        echo "$top: no program here; install it with pip, then use --files-only" >&2
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

# Whether units are installed, and not an init script. In the chroot where an image is built systemd
# is there, but does not run. A DESTDIR without a shell is no image yet, but a package's tree.
has_systemd() {
    if [ -n "$root" ] && [ ! -e "$root/bin/sh" ]; then
        return 0
    fi
    for directory in /usr/bin /bin; do
        [ ! -e "$root$directory/systemctl" ] || return 0
    done
    return 1
}

# The files of the program, as `MODE FILE PLACE`, FILE below $top.
shared_files() {
    for page in "$deploy"/man/*; do
        page=${page##*/}
        echo "0644 deploy/man/$page /usr/local/share/man/man${page##*.}/$page"
    done
    completion=deploy/completion/hbtrio
    echo "0644 $completion.bash /usr/local/share/bash-completion/completions/hbtrio"
    echo "0644 $completion.zsh /usr/local/share/zsh/site-functions/_hbtrio"
    echo "0644 $completion.fish /usr/local/share/fish/vendor_completions.d/hbtrio.fish"
}

# The files of the role.
role_files() {
    if [ "$role" = guest ]; then
        for handler in "$deploy"/handlers/*; do
            mode=0755
            [ -x "$handler" ] || mode=0644
            handler=${handler##*/}
            echo "$mode deploy/handlers/$handler /usr/local/share/hbtrio/handlers/$handler"
        done
        if has_systemd; then
            echo "0644 deploy/60-hbtrio-guest.rules /etc/udev/rules.d/60-hbtrio-guest.rules"
        else
            echo "0755 deploy/guest-client.init /etc/init.d/guest-client"
            return
        fi
    fi
    unit=hbtrio-$role.service
    echo "0644 deploy/$unit /etc/systemd/system/$unit"
    [ "$role" != host ] ||
        echo "0644 deploy/hbtrio-shutdown.service /etc/systemd/system/hbtrio-shutdown.service"
}

# The files that host and agent share.
daemon_files() {
    [ "$role" != guest ] || return 0
    echo "0644 deploy/hbtrio.sysusers.conf /etc/sysusers.d/hbtrio.conf"
    echo "0644 deploy/hbtrio.tmpfiles.conf /etc/tmpfiles.d/hbtrio.conf"
}

# The configuration of the role, which is never replaced or removed.
configuration() {
    if [ "$role" = guest ]; then
        conf=/etc/guest-client/heartbeat
        echo "0644 config/guest_heartbeat.conf $conf/guest_heartbeat.conf"
        echo "0755 config/sample_event_script $conf/sample_event_script"
        echo "0755 config/sample_health_script $conf/sample_health_script"
    else
        echo "0644 config/$role.toml /etc/hbtrio/$role.toml"
    fi
}

# Installs each file of a list, replacing an existing one.
put() {
    while read -r mode file place; do
        mkdir -p "$root${place%/*}"
        cp "$top/$file" "$root$place.new"
        chmod "$mode" "$root$place.new"
        mv -f "$root$place.new" "$root$place"
    done
}

# Installs those files of a list that do not exist.
keep() {
    while read -r mode file place; do
        [ -e "$root$place" ] || echo "$mode $file $place" | put
    done
}

# Removes the files of a list.
drop() {
    while read -r _ _ place; do
        rm -f "$root$place"
    done
}

runs_systemd() {
    [ -z "$root" ] && [ -d /run/systemd/system ]
}

files() {
    shared_files | put
    role_files | put
    daemon_files | put
    configuration | keep
    if [ -z "$root" ] && [ "$role" != guest ]; then
        systemd-sysusers hbtrio.conf
        # In a chroot without /proc it fails; systemd runs it at boot, too.
        systemd-tmpfiles --create hbtrio.conf || :
    fi
    reload
    if has_systemd; then
        echo "installed; then: systemctl enable --now hbtrio-$role"
    else
        echo "installed; then: /etc/init.d/guest-client start"
    fi
}

reload() {
    runs_systemd || return 0
    systemctl daemon-reload
    [ "$role" != guest ] || udevadm control --reload
}

uninstall() {
    if runs_systemd; then
        [ "$role" != host ] || systemctl disable --quiet --now hbtrio-shutdown 2>/dev/null || :
        systemctl disable --quiet --now "hbtrio-$role" 2>/dev/null || :
    elif [ -z "$root" ] && [ -x /etc/init.d/guest-client ] && [ "$role" = guest ]; then
        /etc/init.d/guest-client stop
    fi
    role_files | drop
    reload
    for other in guest host agent; do
        [ ! -e "$root/etc/systemd/system/hbtrio-$other.service" ] || left=$other
    done
    case ${left:-none} in
        none)
            daemon_files | drop
            shared_files | drop
            rm -rf "$root/opt/hbtrio"
            rm -f "$root/usr/local/bin/hbtrio"
            ;;
        guest) daemon_files | drop ;;
    esac
    kept=$(configuration | while read -r _ _ place; do echo "${place%/*}"; done | sort -u)
    [ "$role" = guest ] || kept="$kept, /var/lib/hbtrio and the user hbtrio"
    echo "removed; kept: $kept"
}

action=all
case ${1:-} in
    --files-only) action=files && shift ;;
    --uninstall) action=uninstall && shift ;;
esac
[ $# -eq 1 ] || usage
case $1 in
    guest | host | agent) role=$1 ;;
    *) usage ;;
esac
if [ "$role" != guest ] && ! has_systemd; then
    echo "$0: a host or an agent needs systemd; start hbtrio $role in another way" >&2
    exit 1
fi
case $action in
    all)
        program
        files
        ;;
    files) files ;;
    uninstall) uninstall ;;
esac
