#!/bin/sh
# Builds a Debian package: deploy/deb/build.sh guest|host DIRECTORY
#
# deploy/tree.sh says what is in it, and for which Python. DEB_REVISION is the Debian revision (1).
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
package=hbtrio-$role

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
ZSH_COMPLETIONS=/usr/share/zsh/vendor-completions sh "$deploy/tree.sh" "$role" "$root"
python=$root/opt/$package/bin/python
doc=$root/usr/share/doc/$package
install -D -m 0644 "$deb/copyright" "$doc/copyright"
install -m 0644 "$top/CHANGELOG.md" "$doc/changelog"

version=$("$python" -c 'import hbtrio; print(hbtrio.__version__)')-${DEB_REVISION:-1}
cat >"$doc/changelog.Debian" <<END
$package ($version) unstable; urgency=medium

  * The changes are in changelog.gz.

 -- hbtrio maintainers <maintainers@hbtrio.example>  $(date -R -d "@${SOURCE_DATE_EPOCH:-$(date +%s)}")
END
gzip -9n "$doc/changelog" "$doc/changelog.Debian"
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
