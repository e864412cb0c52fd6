#!/bin/sh
# Makes the certificates of the tests of TLS anew. They prove nothing to anybody: whoever has this
# directory has their keys. `openssl ca` because it alone lets a certificate begin in the past,
# whatever the clock of the machine says.
set -eu
cd "$(dirname "$0")"
rm -f ./*.pem ./*.key
made=$(mktemp -d)
trap 'rm -r "$made"' EXIT

request() {
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
        -subj "/O=hbtrio tests/CN=$2" -keyout "$1.key" -out "$made/request"
}

# sign NAME OPTION...
sign() {
    name=$1
    shift
    rm -f "$made/index"* "$made/serial"*
    : >"$made/index"
    cat >"$made/ca.conf" <<END
[ca]
default_ca = this
[this]
database = $made/index
new_certs_dir = $made
rand_serial = yes
policy = any
default_md = sha256
[any]
organizationName = supplied
commonName = supplied
END
    openssl ca -batch -notext -config "$made/ca.conf" -startdate 20200101000000Z \
        -enddate 21200101000000Z -in "$made/request" -extfile "$made/extensions" -out "$name.pem" "$@"
}

authority() {
    request "$1" "$1"
    printf '%s\n' basicConstraints=critical,CA:TRUE keyUsage=critical,keyCertSign \
        subjectKeyIdentifier=hash >"$made/extensions"
    sign "$1" -selfsign -keyfile "$1.key"
}

# certificate NAME AUTHORITY COMMON-NAME [SUBJECT-ALT-NAME]
certificate() {
    request "$1" "$3"
    printf '%s\n' basicConstraints=critical,CA:FALSE keyUsage=critical,digitalSignature \
        subjectKeyIdentifier=hash authorityKeyIdentifier=keyid >"$made/extensions"
    [ -z "${4:-}" ] || echo "subjectAltName=$4" >>"$made/extensions"
    sign "$1" -keyfile "$2.key" -cert "$2.pem"
}

authority authority
authority other-authority
certificate agent authority agent IP:127.0.0.1,IP:127.0.0.2,DNS:localhost
certificate agent-elsewhere authority agent DNS:controller.example
certificate operator authority operator
certificate compute-0 authority compute-0 DNS:compute-0
certificate compute-1-by-common-name authority compute-1
certificate compute-2-in-both authority compute-0 DNS:compute-2
certificate compute-0-by-other other-authority compute-0 DNS:compute-0
rm -f authority.key other-authority.key
openssl ec -in compute-0.key -aes256 -passout pass:secret -out compute-0-encrypted.key
