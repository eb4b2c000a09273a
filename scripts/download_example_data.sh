#!/usr/bin/env bash
# Fetches the two example scenes, lego (Blender) and fern (LLFF), into data/ of this repository:
#
#     bash scripts/download_example_data.sh
#
# They come from the NeRF authors' archive. A broken download is resumed by the next call, and scenes
# that are already there are left alone. NERF_EXAMPLE_URL=... takes the same archive from a mirror.
# Exit status: 0 if both scenes are there at the end, 1 otherwise.
set -euo pipefail

url=${NERF_EXAMPLE_URL:-http://cseweb.ucsd.edu/~viscomp/projects/LF/papers/ECCV20/nerf/nerf_example_data.zip}
data=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/data
part=$data/nerf_example_data.zip.part
unpacked=$data/.unpacking
# What each scene must hold to count as there.
proofs=(nerf_synthetic/lego/transforms_train.json nerf_llff_data/fern/poses_bounds.npy)

fail() {
    echo "download_example_data: $*" >&2
    exit 1
}

# A Python that runs: a name on PATH may be a shim for a version that is not installed.
find_python() {
    local name
    for name in python3 python; do
        "$name" -c 'import zipfile' 2>/dev/null && echo "$name" && return
    done
    fail "needs unzip or Python; found neither"
}

# Reads every byte against its checksum. (`python -m zipfile -t` exits with 0 even on a mismatch.)
is_whole_zip() {
    if [[ -z $python ]]; then
        unzip -tqq "$1" >/dev/null 2>&1
    else
        local check='import sys, zipfile; sys.exit(bool(zipfile.ZipFile(sys.argv[1]).testzip()))'
        "$python" -c "$check" "$1" 2>/dev/null
    fi
}

unpack() {
    if [[ -z $python ]]; then
        unzip -q "$1" -d "$2"
    else
        "$python" -m zipfile -e "$1" "$2"
    fi
}

# Goes on where $part ends. Progress is for people: not shown in a log.
download() {
    local progress=()
    if [[ $fetcher == curl ]]; then
        progress=(--silent)
        [[ -t 2 ]] && progress=(--progress-bar)
        curl "${progress[@]}" --fail --location --connect-timeout 30 --retry 2 --continue-at - \
            --output "$part" "$url"
    else
        [[ -t 2 ]] && progress=(--show-progress)
        wget --quiet ${progress[@]+"${progress[@]}"} --timeout=30 --tries=3 --continue \
            --output-document="$part" "$url"
    fi
}

missing=()
for proof in "${proofs[@]}"; do
    scene=$(dirname "$proof")
    if [[ -f $data/$proof ]]; then
        echo "$data/$scene: already there"
    elif [[ -e $data/$scene ]]; then
        fail "$data/$scene: is there but has no $(basename "$proof"); move it away and run this again"
    else
        missing+=("$proof")
    fi
done
((${#missing[@]})) || exit 0

# Before anything is fetched: can it be fetched and unpacked here?
fetcher=curl
command -v curl >/dev/null || fetcher=wget
command -v "$fetcher" >/dev/null || fail "needs curl or wget; found neither"
python=
command -v unzip >/dev/null || python=$(find_python)

mkdir -p "$data"
if [[ -s $part ]] && is_whole_zip "$part"; then
    echo "$part: whole from an earlier call"
else
    echo "fetching $url"
    status=0
    download || status=$?
    if ((status)); then
        [[ -e $part && ! -s $part ]] && rm "$part" # an empty file is nothing to resume
        kept="nothing was fetched"
        [[ -e $part ]] && kept="run this again to resume $part, or delete it to start afresh"
        host=${url#*://}
        host=${host%%/*}
        case $fetcher$status in
            curl6 | curl7 | curl28 | wget4) what="cannot reach $host: check the network" ;;
            curl22 | wget8) what="$host answered, but not with the file: set NERF_EXAMPLE_URL to a mirror" ;;
            *) what="the transfer from $host broke off ($fetcher's status $status)" ;;
        esac
        fail "$what; $kept"
    fi
    if ! is_whole_zip "$part"; then
        rm "$part"
        fail "$url: what came is not a whole zip archive; deleted it: run this again"
    fi
fi

# Unpacked aside and moved when whole, so that an interrupted call never leaves half a scene behind.
rm -rf "$unpacked"
trap 'rm -rf "$unpacked"' EXIT
mkdir "$unpacked"
unpack "$part" "$unpacked" || fail "$part: cannot unpack into $data; is the disk full?"
for proof in "${proofs[@]}"; do
    [[ -f $unpacked/$proof ]] || fail "$part: holds no $proof; not the archive that was expected"
done
for proof in "${missing[@]}"; do
    scene=$(dirname "$proof")
    mkdir -p "$data/$(dirname "$scene")"
    mv "$unpacked/$scene" "$data/$scene"
    echo "$data/$scene: fetched"
done
rm "$part"
