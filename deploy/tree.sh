#!/bin/sh
# Fills the root of a package: deploy/tree.sh guest|host DIRECTORY
#
# The program is a Python environment of its own in /opt/hbtrio-guest or /opt/hbtrio-host, with the
# packages of constraints.txt; `host` is host and agent. Around it go units, manual pages, completion
# and the configuration. All is for the machine's architecture and for the Python that it is built
# with: PACKAGE_PYTHON, by default /usr/bin/python3. PIP_PYTHON is any Python with pip 22.3 or newer;
# the environment itself gets no pip.
set -eu
umask 022

deploy=$(cd "$(dirname "$0")" && pwd)
top=${deploy%/*}
if [ $# -ne 2 ]; then
    echo "usage: $0 guest|host DIRECTORY" >&2
    exit 2
fi
role=$1
mkdir -p "$2"
root=$(cd "$2" && pwd)
case $role in
    guest) extra='' daemons=guest ;;
    host) extra='[host,agent]' daemons='host agent' ;;
    *) echo "$0: no package for $role; there are guest and host" >&2 && exit 2 ;;
esac
python=${PACKAGE_PYTHON:-/usr/bin/python3}
pip=${PIP_PYTHON:-python3}

# put MODE FILE PLACE
put() {
    install -D -m "$1" "$2" "$root$3"
}

# -- the program ------------------------------------------------------------------------------
place=/opt/hbtrio-$role
venv=$root$place
"$python" -m venv --without-pip "$venv"
"$pip" -m pip --python "$venv/bin/python" --disable-pip-version-check install --quiet \
    --no-compile --constraint "$top/constraints.txt" "$top$extra"
# Where it was built is nobody's business, and would differ in each build.
rm -f "$venv"/lib/python3.*/site-packages/hbtrio-*.dist-info/direct_url.json
for file in "$venv"/pyvenv.cfg "$venv"/bin/*; do
    [ -L "$file" ] || sed -i "s|$venv|$place|g" "$file"
done
# Nobody activates the environment, compiles against it or runs the libraries' own commands.
find "$venv/bin" -type f ! -name hbtrio -exec rm {} +
rm -r "$venv/include"
# Bytecode as a part of the package: its removal removes it, and no process has to write any.
"$venv/bin/python" -m compileall -q --invalidation-mode unchecked-hash \
    -s "$root" -p / "$venv"/lib/python3.*/site-packages
mkdir -p "$root/usr/bin"
ln -s "$place/bin/hbtrio" "$root/usr/bin/hbtrio"

# -- its files --------------------------------------------------------------------------------
for daemon in $daemons; do
    unit=/usr/lib/systemd/system/hbtrio-$daemon.service
    put 0644 "$deploy/hbtrio-$daemon.service" "$unit"
    sed -i "s|^ExecStart=hbtrio |ExecStart=$place/bin/hbtrio |" "$root$unit"
done
if [ "$role" = guest ]; then
    put 0644 "$deploy/60-hbtrio-guest.rules" /usr/lib/udev/rules.d/60-hbtrio-guest.rules
    for handler in "$deploy"/handlers/*; do
        mode=0755
        [ -x "$handler" ] || mode=0644
        put $mode "$handler" "/usr/share/hbtrio/handlers/${handler##*/}"
    done
    conf=/etc/guest-client/heartbeat
    put 0644 "$top/config/guest_heartbeat.conf" $conf/guest_heartbeat.conf
    put 0755 "$top/config/sample_event_script" $conf/sample_event_script
    put 0755 "$top/config/sample_health_script" $conf/sample_health_script
else
    # It finds the program by its name.
    put 0644 "$deploy/hbtrio-shutdown.service" /usr/lib/systemd/system/hbtrio-shutdown.service
    put 0644 "$deploy/hbtrio.sysusers.conf" /usr/lib/sysusers.d/hbtrio.conf
    put 0644 "$deploy/hbtrio.tmpfiles.conf" /usr/lib/tmpfiles.d/hbtrio.conf
    put 0644 "$top/config/host.toml" /etc/hbtrio/host.toml
    put 0644 "$top/config/agent.toml" /etc/hbtrio/agent.toml
fi
put 0644 "$deploy/completion/hbtrio.bash" /usr/share/bash-completion/completions/hbtrio
put 0644 "$deploy/completion/hbtrio.zsh" "${ZSH_COMPLETIONS:-/usr/share/zsh/site-functions}/_hbtrio"
put 0644 "$deploy/completion/hbtrio.fish" /usr/share/fish/vendor_completions.d/hbtrio.fish
for page in "$deploy"/man/*; do
    name=${page##*/}
    put 0644 "$page" "/usr/share/man/man${name##*.}/$name"
done
find "$root/usr/share/man" -type f -exec gzip -9n {} +
