#!/bin/sh
# Builds an RPM package: deploy/rpm/build.sh guest|host DIRECTORY [OPTION...]
#
# The options are rpmbuild's. deploy/tree.sh says what is in the package, and for which Python.
set -eu
umask 022

rpm=$(cd "$(dirname "$0")" && pwd)
top=${rpm%/*/*}
if [ $# -lt 2 ]; then
    echo "usage: $0 guest|host DIRECTORY [OPTION...]" >&2
    exit 2
fi
role=$1
mkdir -p "$2"
out=$(cd "$2" && pwd)
shift 2

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/SOURCES"
version=$(sed -n 's/^Version: *//p' "$rpm/hbtrio.spec")
tar -czf "$work/SOURCES/hbtrio-$version.tar.gz" -C "$top" --exclude=__pycache__ \
    --transform "s|^|hbtrio-$version/|" CHANGELOG.md LICENSE README.md config constraints.txt \
    deploy docs examples pyproject.toml src
rpmbuild --quiet -bb --define "_topdir $work" --define "_rpmdir $out" --define "role $role" \
    --define "package_python ${PACKAGE_PYTHON:-/usr/bin/python3}" "$@" "$rpm/hbtrio.spec"
