#!/bin/bash
# Build the image `cpu` from nothing and recognise a clip in a container of it: as root on Debian, with
# no engine that runs already and no registry of images.
#   apt-get install --no-install-recommends buildah podman runc debootstrap curl
# `test-image.sh gpu` and `test-image.sh training` only build.
# The base image is Debian's own Python under the official image's name. pip finds its packages as
# it does outside: with this machine's certificates and the user's pip.conf.
set -euo pipefail
cd "$(dirname "$0")/.."

base=docker.io/library/python:3.11-slim-bookworm
target=${1:-cpu}
image=localhost/lpr:$target
work=$(mktemp -d)
port=${PORT:-8765}
url=http://127.0.0.1:$port
podman="podman --cgroup-manager cgroupfs --runtime runc"
trap 'status=$?; $podman rm -f lpr-image-test >/dev/null 2>&1; $podman volume rm -f lpr-image-test >/dev/null 2>&1; rm -rf "$work"; exit $status' EXIT

say() { echo "== $*"; }

make_base() {
    debootstrap --variant=minbase \
        --include=python3,python3-venv,python3-distutils,python3-lib2to3,python-is-python3,ca-certificates \
        bookworm "$work/base" >"$work/debootstrap.log" || { tail "$work/debootstrap.log"; return 1; }
    rm -rf "$work"/base/{debootstrap,var/cache/apt/archives/*.deb,var/lib/apt/lists/*,usr/share/{doc,man,locale}}
    tar -C "$work/base" -c . | $podman import - $base >/dev/null
    rm -r "$work/base"
}

build() {
    local volumes=(--volume /etc/ssl/certs/ca-certificates.crt:/etc/ssl/certs/ca-certificates.crt:ro)
    local conf
    for conf in /etc/pip.conf ~/.config/pip/pip.conf ~/.pip/pip.conf; do
        [ -f "$conf" ] && volumes+=(--volume "$conf:/etc/pip.conf:ro")
    done
    buildah bud --isolation chroot --pull-never --format docker "${volumes[@]}" \
        --target "$target" --tag "$image" .
}

lpr() {  # a container with the image's own user, a read-only root, and the volume
    $podman run --network host --read-only --tmpfs /tmp --cap-drop all \
        --security-opt no-new-privileges --volume lpr-image-test:/data \
        --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --env LPR_PORT="$port" "$@"
}

ask() { curl -sS --fail-with-body --max-time 30 -H "Authorization: Bearer $key" "$@"; echo; }

film() {  # made by the image's own ffmpeg
    local source=$1
    shift
    lpr --rm --entrypoint sh "$image" -c \
        'exec "$(python -c "import imageio_ffmpeg as f; print(f.get_ffmpeg_exe())")" "$@"' \
        ffmpeg -v error -f lavfi -i "$source=size=480x480" "$@" 2>/dev/null
}

recognized() {
    ask "$url/recognize" -F shop_id=shop -F "clip=@$work/clip.mp4" >"$work/answer"
    cat "$work/answer"
    python3 -c 'import json, sys; assert json.load(sys.stdin)["candidates"][0]["product_id"] == "shown"' \
        <"$work/answer"
}

wait_ready() {
    for _ in $(seq 120); do
        curl -sf "$url/readyz" && { echo; return; }
        sleep 1
    done
    $podman logs lpr-image-test | tail
    return 1
}

$podman image exists $base || { say "base image"; make_base; }
say "build $target"
build >"$work/build.log" 2>&1 || { tail -30 "$work/build.log"; exit 1; }
$podman images --format '{{.Repository}}:{{.Tag}} {{.Size}}' | grep -E 'lpr:|python:'
[ "$target" = cpu ] || exit 0

$podman volume rm -f lpr-image-test >/dev/null
say "without a key it does not start"
! lpr --rm "$image" 2>"$work/refusal"
grep -o 'The service cannot start.*' "$work/refusal"
key=$(lpr --rm "$image" keys create --name test --all-shops --right recognize --right index 2>/dev/null)

say "start"
lpr --detach --name lpr-image-test "$image" >/dev/null 2>&1
wait_ready
ask "$url/healthz"
$podman healthcheck run lpr-image-test
say "health: $($podman inspect --format '{{.State.Health.Status}}' lpr-image-test)"
say "user: $($podman exec lpr-image-test id -u), writes to its root: $($podman exec lpr-image-test touch /x 2>&1 || true)"
ask "$url/info" | python3 -c 'import json, sys; print(json.load(sys.stdin)["decoder"])'

say "two products and a clip of one"
film testsrc2 -frames:v 1 -c:v mjpeg -f image2pipe - >"$work/shown.jpg"
film smptehdbars -frames:v 1 -c:v mjpeg -f image2pipe - >"$work/other.jpg"
film testsrc2 -t 2 -pix_fmt yuv420p -movflags frag_keyframe+empty_moov -f mp4 - >"$work/clip.mp4"
ask "$url/gallery" -F shop_id=shop -F product_id=shown -F "images=@$work/shown.jpg"
ask "$url/gallery" -F shop_id=shop -F product_id=other -F "images=@$work/other.jpg"
recognized

say "asked to end"
$podman stop --time 40 lpr-image-test >/dev/null
status=$($podman inspect --format '{{.State.ExitCode}}' lpr-image-test)
echo "exit status $status"
[ "$status" = 0 ]

say "started again on the same volume"
$podman start lpr-image-test >/dev/null 2>&1
wait_ready
recognized
say "passed"
