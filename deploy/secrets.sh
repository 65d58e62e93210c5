#!/bin/sh
# Make up the secrets that docker-compose.yml names, once each: into secrets/, or a folder named.
# A container's user reads the file itself, so others may; nobody but its owner enters the folder.
set -eu
folder=${1:-$(dirname "$0")/../secrets}
umask 077
mkdir -p "$folder"
make() {
    [ -e "$folder/$1" ] && return
    python3 -c "import secrets; print(secrets.token_hex(24), end='')" >"$folder/$1"
    chmod 444 "$folder/$1"
}
for name in minio_user minio_password catalogue_user catalogue_password grafana_password; do
    make "$name"
done
