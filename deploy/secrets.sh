#!/bin/sh
# Makes the secrets that compose.yaml mounts, in deploy/secrets/; what is there already stays as it is.
#
# The folder is closed to others (0700). The files in it are not: compose mounts each by itself, with its mode, and the
# containers' users must be able to read them.
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

make master-key openssl rand -base64 32
make mongodb-keyfile openssl rand -base64 756
make mongodb-admin-password openssl rand -hex 32
make mongodb-password openssl rand -hex 32
make mongodb-uri uri
