#!/bin/sh
# Builds a Debian package: deploy/deb/build.sh guest|host DIRECTORY
#
# The package has a Python environment of its own in /opt/hbtrio-guest or /opt/hbtrio-host, with the
# packages of constraints.txt. `host` is host and agent. It is for the machine's architecture and for
# the Python that it is built with: DEB_PYTHON, by default /usr/bin/python3. PIP_PYTHON is any Python
# with pip 22.3 or newer; the environment itself gets no pip. DEB_REVISION is the Debian revision (1).
set -eu
umask 022

deb=$(cd "$(dirname "$0")" && pwd)
deploy=${deb%/*}
top=${deploy%/*}
if [ $# -ne 2 ]; then
    echo "usage: $0 guest|host DIRECTORY" >&2
    exit 2
fi
role=$1
out=$2
case $role in
    guest) extra='' daemons=guest ;;
    host) extra='[host,agent]' daemons='host agent' ;;
    *) echo "$0: no package for $role; there are guest and host" >&2 && exit 2 ;;
esac
package=hbtrio-$role
python=${DEB_PYTHON:-/usr/bin/python3}
pip=${PIP_PYTHON:-python3}

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

# put MODE FILE PLACE
put() {
    install -D -m "$1" "$2" "$root$3"
}

# -- the program ------------------------------------------------------------------------------
place=/opt/$package
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
# Bytecode as a part of the package: dpkg removes it, and no process has to write any.
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
    conf=/etc/guest-client/heartbeat
    put 0644 "$top/config/guest_heartbeat.conf" $conf/guest_heartbeat.conf
    put 0755 "$top/config/sample_event_script" $conf/sample_event_script
    put 0755 "$top/config/sample_health_script" $conf/sample_health_script
else
    put 0644 "$deploy/hbtrio.sysusers.conf" /usr/lib/sysusers.d/hbtrio.conf
    put 0644 "$deploy/hbtrio.tmpfiles.conf" /usr/lib/tmpfiles.d/hbtrio.conf
    put 0644 "$top/config/host.toml" /etc/hbtrio/host.toml
    put 0644 "$top/config/agent.toml" /etc/hbtrio/agent.toml
fi
put 0644 "$deploy/completion/hbtrio.bash" /usr/share/bash-completion/completions/hbtrio
put 0644 "$deploy/completion/hbtrio.zsh" /usr/share/zsh/vendor-completions/_hbtrio
put 0644 "$deploy/completion/hbtrio.fish" /usr/share/fish/vendor_completions.d/hbtrio.fish
for page in "$deploy"/man/*; do
    name=${page##*/}
    put 0644 "$page" "/usr/share/man/man${name##*.}/$name"
done
put 0644 "$deb/copyright" "/usr/share/doc/$package/copyright"
put 0644 "$top/CHANGELOG.md" "/usr/share/doc/$package/changelog"

# -- what dpkg reads --------------------------------------------------------------------------
version=$("$venv/bin/python" -c 'import hbtrio; print(hbtrio.__version__)')-${DEB_REVISION:-1}
cat >"$root/usr/share/doc/$package/changelog.Debian" <<END
$package ($version) unstable; urgency=medium

  * The changes are in changelog.gz.

 -- hbtrio maintainers <maintainers@hbtrio.example>  $(date -R -d "@${SOURCE_DATE_EPOCH:-$(date +%s)}")
END
find "$root/usr/share/man" "$root/usr/share/doc/$package"/changelog* -type f -exec gzip -9n {} +
next=$("$python" -c 'import sys; print("%d.%d" % (sys.version_info[0], sys.version_info[1] + 1))')
this=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
mkdir -p "$root/DEBIAN"
sed -e "s|@VERSION@|$version|" -e "s|@ARCHITECTURE@|$(dpkg --print-architecture)|" \
    -e "s|@PYTHON@|python3 (>= $this), python3 (<< $next)|" \
    -e "s|@SIZE@|$(du -sk --exclude=DEBIAN "$root" | cut -f1)|" \
    "$deb/$role.control" >"$root/DEBIAN/control"
(cd "$root" && find etc -type f | sort | sed 's|^|/|') >"$root/DEBIAN/conffiles"
for script in postinst prerm postrm; do
    install -m 0755 "$deb/$role.$script" "$root/DEBIAN/$script"
done
(cd "$root" && find opt usr -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"

mkdir -p "$out"
dpkg-deb --root-owner-group --build "$root" "$out" >/dev/null
echo "$out/${package}_${version}_$(dpkg --print-architecture).deb"
