#!/bin/sh
# Makes the secrets and certificates that compose.yaml mounts, in deploy/secrets/; what is there already stays as it is.
#
# But for certificates that end within 30 days: they are made anew, and taken up without a restart. So run this each
# week. The authority lives for ten years; its key is mounted nowhere. OPENMCP_HOST is the name by which clients reach
# the API, if not localhost; a certificate that the world trusts goes in place of the two in `public/`, and is left alone.
#
# The folder is closed to others (0700). The files in it are not: they are mounted with their modes, and the containers'
# users must be able to read them.
set -eu
umask 022
folder=$(dirname "$0")/secrets
mkdir -p "$folder"
chmod 0700 "$folder"
cd "$folder"

make() { # NAME COMMAND…: the command's output, whole or not at all
    name=$1
    shift
    if [ ! -s "$name" ]; then
        "$@" >"$name.part"
        mv "$name.part" "$name"
    fi
}
uri() {
    password=$(cat mongodb-password)
    echo "mongodb://openmcp:$password@mongo-1:27017,mongo-2:27017,mongo-3:27017/?replicaSet=openmcp&authSource=admin"
}

key() {
    openssl ecparam -name prime256v1 -genkey -noout
}
authority() {
    openssl req -new -x509 -sha256 -key authority/key.pem -days 3650 -subj "/CN=OpenMCP Chain, compose" \
        -addext keyUsage=critical,keyCertSign,cRLSign
}
leaf() { # PART USE NAMES: a certificate for the key of this part
    extensions=$(mktemp)
    printf '%s\n' basicConstraints=critical,CA:FALSE keyUsage=critical,digitalSignature \
        "extendedKeyUsage=$2" "subjectAltName=$3" subjectKeyIdentifier=hash authorityKeyIdentifier=keyid >"$extensions"
    openssl req -new -sha256 -key "$1/key.pem.new" -subj "/CN=OpenMCP Chain $1" |
        openssl x509 -req -sha256 -CA authority/cert.pem -CAkey authority/key.pem -set_serial "0x1$(openssl rand -hex 15)" \
            -days 90 -extfile "$extensions" 2>/dev/null
    rm "$extensions"
}
issue() { # PART USE NAMES: its key, certificate and authority, in a folder that is mounted as a whole
    mkdir -p "$1"
    cmp -s authority/cert.pem "$1/ca.pem" || { cp authority/cert.pem "$1/ca.pem.new" && mv "$1/ca.pem.new" "$1/ca.pem"; }
    if [ -s "$1/cert.pem" ] && [ "$(openssl x509 -noout -issuer_hash -in "$1/cert.pem")" != "$ours" ]; then
        return # somebody else's
    fi
    if ! openssl x509 -checkend 2592000 -noout -in "$1/cert.pem" >/dev/null 2>&1; then
        key >"$1/key.pem.new"
        leaf "$1" "$2" "$3" >"$1/cert.pem.new"
        mv "$1/key.pem.new" "$1/key.pem" # whoever reads the two between these lines keeps what it has
        mv "$1/cert.pem.new" "$1/cert.pem"
    fi
}

admin_secret() {
    echo "omcp_$(openssl rand -hex 4)_$(openssl rand -base64 32 | tr '+/' '-_' | tr -d '=')"
}

make master-key openssl rand -base64 32
make admin-secret admin_secret
make mongodb-keyfile openssl rand -base64 756
make mongodb-admin-password openssl rand -hex 32
make mongodb-password openssl rand -hex 32
make mongodb-uri uri

mkdir -p authority
chmod 0700 authority
make authority/key.pem key
chmod 0600 authority/key.pem
make authority/cert.pem authority
ours=$(openssl x509 -noout -subject_hash -in authority/cert.pem)
issue server serverAuth DNS:server,DNS:localhost,IP:127.0.0.1
issue envoy clientAuth DNS:envoy
issue worker clientAuth DNS:worker
issue public serverAuth "DNS:${OPENMCP_HOST:-localhost},DNS:localhost,IP:127.0.0.1"
